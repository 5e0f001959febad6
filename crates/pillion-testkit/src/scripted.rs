//! A backend that does what a test tells it to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use pillion_core::{
    Backend, BackendEvent, BackendEvents, Error, ErrorCode, Result, WorkerStatus,
    forward::{ForwardBatch, ForwardItem, ForwardOutput},
    step::{ROW_SAMPLE, Step, StepOutput},
};

/// How long a test waits for something that must happen before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// The engine's end. See [`Script`] for the test's.
#[derive(Debug)]
pub struct ScriptedBackend {
    to_test: Sender<Call>,
    events: Option<BackendEvents>,
    max_in_flight: usize,
    is_gone: Arc<AtomicBool>,
}

/// What the engine asked for.
#[derive(Debug)]
enum Call {
    Start(BackendEvents),
    Submit(Step),
    SubmitForward(ForwardBatch),
    Close,
}

/// The test's end: sees what the engine asks for and decides what comes of it.
#[derive(Debug)]
pub struct Script {
    calls: Receiver<Call>,
    events: Option<BackendEvents>,
    is_gone: Arc<AtomicBool>,
}

impl ScriptedBackend {
    /// Both ends.
    pub fn new(max_in_flight: usize) -> (Self, Script) {
        let (to_test, calls) = unbounded();
        let is_gone = Arc::new(AtomicBool::new(false));
        let script = Script { calls, events: None, is_gone: Arc::clone(&is_gone) };
        (Self { to_test, events: None, max_in_flight, is_gone }, script)
    }

    fn tell(&self, call: Call) -> Result<()> {
        self.to_test.send(call).map_err(|_| Error::internal("the script has ended"))
    }
}

impl Backend for ScriptedBackend {
    fn start(&mut self, events: BackendEvents) -> Result<()> {
        self.events = Some(events.clone());
        self.tell(Call::Start(events))
    }

    fn submit(&mut self, step: &Step) -> Result<()> {
        self.tell(Call::Submit(step.clone()))?;
        if self.is_gone.load(Ordering::Acquire) {
            return Err(Error::new(ErrorCode::WorkerLost, "there is no worker at this moment"));
        }
        Ok(())
    }

    fn submit_forward(&mut self, batch: &ForwardBatch) -> Result<()> {
        self.tell(Call::SubmitForward(batch.clone()))
    }

    fn max_in_flight(&self) -> usize {
        self.max_in_flight
    }

    fn abort(&mut self) {}

    fn close(&mut self, _timeout: Duration) {
        let _ = self.tell(Call::Close);
        if let Some(events) = self.events.take() {
            events.send(BackendEvent::Closed);
        }
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        Vec::new()
    }
}

impl Script {
    /// Sends an event as the worker would. The engine must have been started.
    pub fn send(&mut self, event: BackendEvent) {
        while self.events.is_none() {
            match self.calls.recv_timeout(PATIENCE).expect("the engine starts its backend") {
                Call::Start(events) => self.events = Some(events),
                other => panic!("{other:?} before start"),
            }
        }
        self.events.as_ref().expect("set above").send(event);
    }

    /// From now on steps are refused, since their worker has gone: of that the engine hears later.
    pub fn refuse_steps(&mut self) {
        self.is_gone.store(true, Ordering::Release);
    }

    /// Loading ended well, as [`crate::worker_info`] says. Steps are taken.
    pub fn ready(&mut self) {
        self.is_gone.store(false, Ordering::Release);
        self.send(BackendEvent::Ready(Box::new(crate::worker_info())));
    }

    /// The next step that the engine submits.
    pub fn next_step(&mut self) -> Step {
        match self.calls.recv_timeout(PATIENCE).expect("the engine submits a step") {
            Call::Submit(step) => step,
            other => panic!("{other:?} where a step was expected"),
        }
    }

    /// Loading ended well, with a model that predicts and does not generate.
    pub fn ready_to_predict(&mut self) {
        let mut info = crate::worker_info();
        info.model.tasks = vec!["predict".to_owned()];
        self.send(BackendEvent::Ready(Box::new(info)));
    }

    /// The next forward that the engine submits.
    pub fn next_forward(&mut self) -> ForwardBatch {
        match self.calls.recv_timeout(PATIENCE).expect("the engine submits a forward") {
            Call::SubmitForward(batch) => batch,
            other => panic!("{other:?} where a forward was expected"),
        }
    }

    /// Answers a forward with one result per item, as `result(item)` says.
    pub fn answer_forward(&mut self, batch: &ForwardBatch, result: impl Fn(&ForwardItem) -> Result<ForwardItem>) {
        let results = batch.items.iter().map(result).collect();
        let output = ForwardOutput { forward_id: batch.forward_id, forward_ns: 1000, results, error: None };
        self.send(BackendEvent::ForwardDone(output));
    }

    /// Whether nothing more was asked for so far.
    pub fn is_quiet(&self) -> bool {
        self.calls.is_empty()
    }

    /// Answers a step with one token per sampling row, as `token(slot)` says.
    pub fn answer(&mut self, step: &Step, token: impl Fn(u32) -> u32) {
        let sampling = step.rows.iter().filter(|r| r.flags & ROW_SAMPLE != 0);
        let tokens = sampling.map(|r| token(r.slot)).collect();
        let output = StepOutput { step_id: step.step_id, forward_ns: 1000, tokens, ..StepOutput::default() };
        self.send(BackendEvent::StepDone(output));
    }
}
