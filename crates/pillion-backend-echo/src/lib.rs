//! The echo model: a backend whose answer is its prompt, followed by the end of the text.
//!
//! It keeps the same slots as a Python worker and takes the same steps, so everything around a model can be tried and tested without
//! one. It knows nothing of text: with the byte tokenizer its ids are bytes. Asked to predict, it answers each input with itself.

mod model;

use std::{
    thread::{self, JoinHandle},
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
    Running { jobs: Sender<Job>, thread: JoinHandle<()>, events: BackendEvents },
    Closed,
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
        let State::Running { jobs, .. } = &self.state else {
            return Err(Error::new(ErrorCode::Closed, "the echo backend is closed"));
        };
        jobs.try_send(job).map_err(|_| Error::internal(format!("more than {MAX_IN_FLIGHT} steps were in flight")))
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
        let to_engine = events.clone();
        let thread = thread::Builder::new()
            .name("pillion-echo".to_owned())
            .spawn(move || run(&options, &queue, &to_engine))
            .map_err(|e| Error::new(ErrorCode::OutOfMemory, "the echo thread could not be started").with_cause(e))?;
        events.send(BackendEvent::Ready(Box::new(self.info())));
        self.state = State::Running { jobs, thread, events };
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
        if let State::Running { jobs, thread, events } = std::mem::replace(&mut self.state, State::Closed) {
            drop(jobs);
            // The thread is not joined: it ends by itself after at most two steps, and the engine must not wait for them.
            drop(thread);
            events.send(BackendEvent::Closed);
        }
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        let state = match self.state {
            State::New => "starting",
            State::Running { .. } => "ready",
            State::Closed => "closed",
        };
        vec![WorkerStatus { pid: std::process::id(), state: state.to_owned(), restarts: 0, rss_bytes: 0 }]
    }
}

fn run(options: &EchoOptions, queue: &Receiver<Job>, events: &BackendEvents) {
    let mut model = EchoModel::new(options.num_slots);
    while let Ok(job) = queue.recv() {
        if !options.step_time.is_zero() {
            thread::sleep(options.step_time);
        }
        events.send(match job {
            Job::Step(step) => {
                let output = model.step(&step).unwrap_or_else(|error| StepOutput::failed(step.step_id, error));
                BackendEvent::StepDone(output)
            }
            Job::Forward(ForwardBatch { forward_id, items }) => {
                let results = items.into_iter().map(Ok).collect();
                BackendEvent::ForwardDone(ForwardOutput { forward_id, results, ..ForwardOutput::default() })
            }
        });
    }
}
