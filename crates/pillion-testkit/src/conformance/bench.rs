//! A backend on the bench: driven as the engine would drive it.

use std::{
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use pillion_core::{
    Backend, BackendEvent, BackendEvents, Error, LogRecord, Progress, WorkerInfo,
    forward::{ForwardBatch, ForwardItem, ForwardOutput},
    step::{NewSequence, ROW_SAMPLE, Row, Step, StepOutput},
};

use super::{Bridge, Model, Subject};

/// Nothing that is waited for takes so long, on however busy a machine; it only keeps a failure from hanging.
pub(super) const LONG: Duration = Duration::from_secs(120);
/// The slot of sequences that are there for what they make the model do.
const COMMANDS: u32 = 31;

/// A backend and all that it has said.
pub struct Bench {
    /// Whose it is.
    pub bridge: Bridge,
    /// Driven by hand.
    pub backend: Box<dyn Backend>,
    /// Log records, as far as events were read.
    pub logs: Vec<LogRecord>,
    /// Progress, as far as events were read.
    pub progress: Vec<Progress>,
    events: Receiver<BackendEvent>,
}

impl Bench {
    /// Begins to load.
    pub fn start(subject: &dyn Subject, model: &Model) -> Self {
        let (send, events) = mpsc::channel();
        let mut backend = subject.backend(model);
        // The receiver may have gone when the last events come.
        backend.start(BackendEvents::new(move |event| drop(send.send(event)))).expect("it starts");
        Self { bridge: subject.bridge(), backend, logs: Vec::new(), progress: Vec::new(), events }
    }

    /// A model that was loaded.
    pub fn ready(subject: &dyn Subject, model: &Model) -> Self {
        let mut bench = Self::start(subject, model);
        bench.expect_ready();
        bench
    }

    /// The next event that is neither a log record nor progress.
    pub fn next_event(&mut self) -> BackendEvent {
        let until = Instant::now() + LONG;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(BackendEvent::Log(record)) => self.logs.push(record),
                Ok(BackendEvent::Progress(progress)) => self.progress.push(progress),
                Ok(event) => return event,
                Err(error) => panic!("{error} in place of an event; log: {:#?}", self.logs),
            }
        }
    }

    /// Loading has ended well.
    pub fn expect_ready(&mut self) -> WorkerInfo {
        match self.next_event() {
            BackendEvent::Ready(info) => *info,
            other => self.unexpected(&other, "ready"),
        }
    }

    /// Loading has failed.
    pub fn expect_load_failed(&mut self) -> Error {
        match self.next_event() {
            BackendEvent::LoadFailed(error) => error,
            other => self.unexpected(&other, "a failed load"),
        }
    }

    /// The worker is gone.
    pub fn expect_lost(&mut self) -> Error {
        match self.next_event() {
            BackendEvent::WorkerLost(error) => error,
            other => self.unexpected(&other, "a lost worker"),
        }
    }

    /// A step was answered.
    pub fn expect_step(&mut self) -> StepOutput {
        match self.next_event() {
            BackendEvent::StepDone(output) => output,
            other => self.unexpected(&other, "a step's answer"),
        }
    }

    /// A forward was answered.
    pub fn expect_forward(&mut self) -> ForwardOutput {
        match self.next_event() {
            BackendEvent::ForwardDone(output) => output,
            other => self.unexpected(&other, "a forward's answer"),
        }
    }

    fn unexpected(&self, event: &BackendEvent, wanted: &str) -> ! {
        panic!("{event:#?} in place of {wanted}; log: {:#?}", self.logs)
    }

    /// Waits for a record whose text has `part` in it.
    pub fn expect_log(&mut self, part: &str) -> LogRecord {
        let until = Instant::now() + LONG;
        loop {
            if let Some(at) = self.logs.iter().position(|record| record.message.contains(part)) {
                return self.logs.remove(at);
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(BackendEvent::Log(record)) => self.logs.push(record),
                Ok(BackendEvent::Progress(progress)) => self.progress.push(progress),
                other => panic!("{other:#?} in place of a record with {part:?}; log: {:#?}", self.logs),
            }
        }
    }

    /// Hands over a step, which is taken.
    pub fn submit(&mut self, step: &Step) {
        self.backend.submit(step).expect("the step is taken");
    }

    /// Hands over inputs, which are taken.
    pub fn submit_inputs(&mut self, forward_id: u64, inputs: &[&str]) {
        self.backend.submit_forward(&inputs_of(forward_id, inputs)).expect("the forward is taken");
    }

    /// Runs a step that gives one token.
    pub fn token(&mut self, step: &Step) -> u32 {
        self.submit(step);
        let output = self.expect_step();
        assert_eq!((output.step_id, &output.error, output.tokens.len()), (step.step_id, &None, 1), "{output:?}");
        output.tokens[0]
    }

    /// Shows that a model that takes steps is well.
    pub fn round_trip(&mut self, step_id: u64) {
        assert_eq!(self.token(&Step { freed: vec![30], ..enters(step_id, 30, &[7, 8]) }), 7);
    }

    /// Shows that a class that answers with its inputs is well.
    pub fn forward_round_trip(&mut self, forward_id: u64) {
        let text = format!("[{forward_id},\"ü\"]");
        self.submit_inputs(forward_id, &[&text]);
        let output = self.expect_forward();
        assert_eq!((output.forward_id, output.error, output.results), (forward_id, None, vec![Ok(item(&text))]));
    }

    /// Its state, as `status()` shows it.
    pub fn state(&self) -> String {
        self.backend.workers()[0].state.clone()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.backend.workers()[0].pid
    }

    /// Ends it, shows that `Closed` is all that comes, that nothing comes after it, and that the process has gone. Gives the whole log.
    pub fn close(mut self) -> Vec<LogRecord> {
        let pid = self.pid();
        self.backend.close(LONG);
        self.backend.close(LONG);
        match self.next_event() {
            BackendEvent::Closed => {}
            other => self.unexpected(&other, "closed"),
        }
        assert_eq!(self.state(), "closed");
        if self.bridge.has_process() && pid != 0 {
            assert!(!is_alive(pid), "process {pid} is still there");
        }
        self.drop_in_silence()
    }

    /// Ends it while it may still be loading.
    pub fn close_whatever_comes(mut self) {
        self.backend.close(LONG);
        while !matches!(self.next_event(), BackendEvent::Closed) {}
        self.drop_in_silence();
    }

    /// Drops it after `Closed`, and shows that nothing more comes.
    pub fn drop_in_silence(self) -> Vec<LogRecord> {
        drop(self.backend);
        match self.events.recv_timeout(LONG) {
            Err(RecvTimeoutError::Disconnected) => self.logs,
            other => panic!("{other:#?} came after closed"),
        }
    }

    /// Drops it without closing, and gives what it says in its last moments.
    pub fn drop_unclosed(self) -> Vec<BackendEvent> {
        drop(self.backend);
        let mut said = Vec::new();
        loop {
            match self.events.recv_timeout(LONG) {
                Ok(event) => said.push(event),
                Err(RecvTimeoutError::Disconnected) => return said,
                Err(RecvTimeoutError::Timeout) => panic!("it is never let go; it said {said:#?}"),
            }
        }
    }
}

/// A sequence enters a slot and its whole prompt runs.
pub(super) fn enters(step_id: u64, slot: u32, prompt: &[u32]) -> Step {
    let len = prompt.len() as u32;
    let new = NewSequence { slot, prompt_len: len, max_len: 2 * len + 2, ..NewSequence::default() };
    let rows = vec![Row { slot, start: 0, count: len, flags: ROW_SAMPLE }];
    Step { step_id, new: vec![new], prompts: prompt.to_vec(), rows, ..Step::default() }
}

/// One more position of a slot.
pub(super) fn decodes(step_id: u64, slot: u32, start: u32) -> Step {
    Step { step_id, rows: vec![Row { slot, start, count: 1, flags: ROW_SAMPLE }], ..Step::default() }
}

/// A step that makes the model do something; its answer is the token 5, if there is one.
pub(super) fn does(step_id: u64, word: &str) -> Step {
    Step { freed: vec![COMMANDS], request_ids: vec![format!("do:{word}")], ..enters(step_id, COMMANDS, &[5]) }
}

pub(super) fn item(json: &str) -> ForwardItem {
    ForwardItem { json: json.to_owned(), tensors: Vec::new() }
}

pub(super) fn inputs_of(forward_id: u64, inputs: &[&str]) -> ForwardBatch {
    ForwardBatch { forward_id, items: inputs.iter().map(|json| item(json)).collect(), ..ForwardBatch::default() }
}

/// Whether there is such a process, other than one that only waits to be waited for.
pub(super) fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
