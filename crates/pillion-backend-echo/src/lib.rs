//! The echo model: a backend whose answer is its prompt, followed by the end of the text.
//!
//! It keeps the same slots as a Python worker and takes the same steps, so everything around a model can be tried and tested without
//! one. It knows nothing of text: with the byte tokenizer its ids are bytes. Asked to predict, it answers each input with itself.

mod model;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use pillion_core::{
    Backend, BackendEvent, BackendEvents, Error, ErrorCode, GenerationDefaults, ModelInfo, Result, WorkerInfo,
    WorkerStatus,
    forward::{ForwardBatch, ForwardOutput},
    step::{self, Step, StepOutput},
};

pub use model::{EOS_TOKEN_ID, EchoModel, VOCAB_SIZE};

/// Tokens of prompt and answer together.
const MAX_CONTEXT: u32 = 1 << 20;
const MAX_IN_FLIGHT: usize = 2;

/// How the echo model behaves.
#[derive(Clone, Debug)]
pub struct EchoOptions {
    /// How long a step takes.
    pub step_time: Duration,
    /// Sequences at once.
    pub num_slots: u32,
}

impl Default for EchoOptions {
    fn default() -> Self {
        Self { step_time: Duration::ZERO, num_slots: 32 }
    }
}

/// Runs an [`EchoModel`] on a thread of its own.
#[derive(Debug)]
pub struct EchoBackend {
    options: EchoOptions,
    state: State,
}

#[derive(Debug)]
enum State {
    New,
    Running { jobs: Sender<Job>, shared: Arc<Shared> },
    Closed,
}

/// What the engine's thread and the model's share.
#[derive(Debug)]
struct Shared {
    /// None once the engine has heard the last of us. Held while an event is sent, so that nothing comes after that.
    events: Mutex<Option<BackendEvents>>,
    in_flight: AtomicUsize,
}

impl Shared {
    fn send(&self, event: BackendEvent) {
        if let Some(events) = &*self.events.lock().unwrap_or_else(PoisonError::into_inner) {
            events.send(event);
        }
    }

    fn end(&self, last: Option<BackendEvent>) {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(events), Some(last)) = (events, last) {
            events.send(last);
        }
    }
}

/// What the thread is asked to do.
#[derive(Debug)]
enum Job {
    Step(Step),
    Forward(ForwardBatch),
}

impl EchoBackend {
    /// Nothing runs before [`Backend::start`].
    pub fn new(options: EchoOptions) -> Self {
        Self { options, state: State::New }
    }

    fn send(&self, job: Job) -> Result<()> {
        let State::Running { jobs, shared } = &self.state else {
            return Err(Error::new(ErrorCode::Closed, "the echo backend does not run"));
        };
        let more = |n| (n < MAX_IN_FLIGHT).then_some(n + 1);
        if shared.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return Err(Error::internal(format!("more than {MAX_IN_FLIGHT} steps were in flight")));
        }
        jobs.try_send(job).map_err(|_| Error::internal("the echo model's thread has ended"))
    }

    fn info(&self) -> WorkerInfo {
        WorkerInfo {
            version: pillion_core::VERSION.to_owned(),
            step_version: step::VERSION,
            pid: std::process::id(),
            python: None,
            model: ModelInfo {
                name: "echo".to_owned(),
                tasks: vec!["generate".to_owned(), "predict".to_owned()],
                tier: None,
                tier_reason: None,
                dtype: None,
                device: None,
                max_context: MAX_CONTEXT,
                vocab_size: VOCAB_SIZE,
                num_slots: self.options.num_slots,
                kv_tokens: u64::from(MAX_CONTEXT) * u64::from(self.options.num_slots),
                eos_token_ids: vec![EOS_TOKEN_ID],
                defaults: GenerationDefaults::default(),
            },
        }
    }
}

impl Backend for EchoBackend {
    fn start(&mut self, events: BackendEvents) -> Result<()> {
        let State::New = self.state else {
            return Err(Error::internal("the echo backend was started twice"));
        };
        let (jobs, queue) = bounded(MAX_IN_FLIGHT);
        let options = self.options.clone();
        let shared = Arc::new(Shared { events: Mutex::new(Some(events)), in_flight: AtomicUsize::new(0) });
        let to_engine = Arc::clone(&shared);
        // Not joined: it ends by itself after at most two steps, and the engine must not wait for them.
        thread::Builder::new()
            .name("pillion-echo".to_owned())
            .spawn(move || run(&options, &queue, &to_engine))
            .map_err(|e| Error::new(ErrorCode::OutOfMemory, "the echo thread could not be started").with_cause(e))?;
        shared.send(BackendEvent::Ready(Box::new(self.info())));
        self.state = State::Running { jobs, shared };
        Ok(())
    }

    fn submit(&mut self, step: &Step) -> Result<()> {
        self.send(Job::Step(step.clone()))
    }

    fn submit_forward(&mut self, batch: &ForwardBatch) -> Result<()> {
        self.send(Job::Forward(batch.clone()))
    }

    fn max_in_flight(&self) -> usize {
        MAX_IN_FLIGHT
    }

    fn abort(&mut self) {}

    fn close(&mut self, _timeout: Duration) {
        if let State::Running { shared, .. } = std::mem::replace(&mut self.state, State::Closed) {
            shared.end(Some(BackendEvent::Closed));
        }
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        let state = match &self.state {
            State::New => "starting",
            State::Running { shared, .. } if shared.in_flight.load(Ordering::Relaxed) > 0 => "busy",
            State::Running { .. } => "ready",
            State::Closed => "closed",
        };
        vec![WorkerStatus { pid: std::process::id(), state: state.to_owned(), restarts: 0, rss_bytes: 0 }]
    }
}

impl Drop for EchoBackend {
    fn drop(&mut self) {
        if let State::Running { shared, .. } = &self.state {
            shared.end(None);
        }
    }
}

fn run(options: &EchoOptions, queue: &Receiver<Job>, shared: &Shared) {
    let mut model = EchoModel::new(options.num_slots);
    while let Ok(job) = queue.recv() {
        if !options.step_time.is_zero() {
            thread::sleep(options.step_time);
        }
        let answer = match job {
            Job::Step(step) => {
                let output = model.step(&step).unwrap_or_else(|error| StepOutput::failed(step.step_id, error));
                BackendEvent::StepDone(output)
            }
            Job::Forward(ForwardBatch { forward_id, items, .. }) => {
                let results = items.into_iter().map(Ok).collect();
                BackendEvent::ForwardDone(ForwardOutput { forward_id, results, ..ForwardOutput::default() })
            }
        };
        // Before the answer, which the next step may follow at once.
        shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        shared.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A backend whose answers are held up until something comes through the channel.
    fn held_up() -> (EchoBackend, Receiver<BackendEvent>, Sender<()>) {
        let (send, events) = channel();
        let (go_on, gate) = channel::<()>();
        let (send, gate) = (Mutex::new(send), Mutex::new(gate));
        let mut backend = EchoBackend::new(EchoOptions::default());
        let sink = BackendEvents::new(move |event| {
            let is_answer = matches!(event, BackendEvent::StepDone(_));
            let _ = send.lock().unwrap().send(event);
            if is_answer {
                let _ = gate.lock().unwrap().recv();
            }
        });
        backend.start(sink).unwrap();
        assert!(matches!(events.recv().unwrap(), BackendEvent::Ready(_)));
        (backend, events, go_on)
    }

    fn step(step_id: u64) -> Step {
        Step { step_id, ..Step::default() }
    }

    #[test]
    fn a_third_step_in_flight_is_refused() {
        let (mut backend, events, go_on) = held_up();
        backend.submit(&step(1)).unwrap();
        assert!(matches!(events.recv().unwrap(), BackendEvent::StepDone(_)));
        // The first is answered and its thread is held up, so that two more wait.
        backend.submit(&step(2)).unwrap();
        backend.submit(&step(3)).unwrap();
        assert_eq!(backend.workers()[0].state, "busy");
        assert_eq!(backend.submit(&step(4)).unwrap_err().code(), ErrorCode::Internal);
        drop(go_on);
        for id in [2, 3] {
            assert!(matches!(events.recv().unwrap(), BackendEvent::StepDone(output) if output.step_id == id));
        }
        backend.submit(&step(5)).unwrap();
    }

    #[test]
    fn nothing_comes_after_closed_though_steps_are_under_way() {
        let (mut backend, events, go_on) = held_up();
        (1..=2).for_each(|id| backend.submit(&step(id)).unwrap());
        assert!(matches!(events.recv().unwrap(), BackendEvent::StepDone(_)));
        // The thread holds the way to the engine now; closing takes it away after the first answer.
        let closing = thread::spawn(move || {
            backend.close(Duration::ZERO);
            backend
        });
        drop(go_on);
        let rest: Vec<_> = events.iter().collect();
        drop(closing.join().unwrap());
        assert!(matches!(rest.last(), Some(BackendEvent::Closed)), "{rest:?}");
    }
}
