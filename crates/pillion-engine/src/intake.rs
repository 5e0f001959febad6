//! From a request to a queued sequence: validate and tokenize, on the tokenizer's pool.

use std::{
    hash::{BuildHasher, RandomState},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use pillion_core::{
    Error, ErrorCode, FinishReason, GenerateRequest, GenerationDefaults, PredictRequest, Prompt, Result, Sequence,
    Stage, Usage, forward::ForwardItem,
};
use pillion_tokenize::Tokenizer;

use crate::{
    admit::Admission,
    bell::QueueSender,
    event::{EngineEvent, NewCall, NewRun},
    metrics::Counters,
    output::{EngineOutput, Finish, Outputs, RunOutput},
};

/// What must be known of the model before a request can be checked.
#[derive(Clone, Debug)]
pub(crate) struct ModelFacts {
    pub(crate) defaults: GenerationDefaults,
    pub(crate) vocab_size: u32,
    pub(crate) max_context: u32,
    /// As in [`pillion_core::ModelInfo`].
    pub(crate) tasks: Vec<String>,
}

/// Makes a request, on the tokenizer's pool: what only that thread should pay for, such as rendering a chat.
pub(crate) enum Make {
    Generate(Box<dyn FnOnce() -> Result<GenerateRequest> + Send>),
    Predict(Box<dyn FnOnce() -> Result<PredictRequest> + Send>),
}

/// A request that was admitted.
struct Admitted {
    run: u32,
    arrival: u64,
    request_id: String,
    make: Make,
    received: Instant,
}

/// Requests before and after the model is known.
enum Gate {
    /// The model loads; requests wait here, within the bounds of admission.
    Shut(Vec<Admitted>),
    Open(ModelFacts),
}

/// Takes requests from any thread. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Intake(Arc<Inner>);

struct Inner {
    gate: Mutex<Gate>,
    tokenizer: Option<Tokenizer>,
    admission: Arc<Admission>,
    counters: Arc<Counters>,
    outputs: Arc<dyn Outputs>,
    queue: QueueSender<EngineEvent>,
}

impl Intake {
    pub(crate) fn new(
        tokenizer: Option<Tokenizer>,
        admission: Arc<Admission>,
        counters: Arc<Counters>,
        outputs: Arc<dyn Outputs>,
        queue: QueueSender<EngineEvent>,
    ) -> Self {
        let gate = Mutex::new(Gate::Shut(Vec::new()));
        Self(Arc::new(Inner { gate, tokenizer, admission, counters, outputs, queue }))
    }

    /// Admits a request and has it made and tokenized. Never blocks; a refusal is the run's output.
    pub(crate) fn take(&self, run: u32, request_id: String, make: Make) {
        Counters::add(&self.0.counters.requests, 1);
        let received = Instant::now();
        match self.0.admission.admit(run) {
            Ok(arrival) => self.pass(Admitted { run, arrival, request_id, make, received }),
            Err(error) => {
                if error.code() == ErrorCode::QueueFull {
                    Counters::add(&self.0.counters.refused, 1);
                }
                self.0.refuse(run, error.with_request_id(request_id));
            }
        }
    }

    /// The model is known: what waited goes on.
    pub(crate) fn open(&self, facts: ModelFacts) {
        let before = std::mem::replace(&mut *self.lock(), Gate::Open(facts));
        if let Gate::Shut(waiting) = before {
            for admitted in waiting {
                self.pass(admitted);
            }
        }
    }

    /// Requests that still wait for the model end with `error`.
    pub(crate) fn fail_waiting(&self, error: &Error) {
        let waiting = match &mut *self.lock() {
            Gate::Shut(waiting) => std::mem::take(waiting),
            Gate::Open(_) => Vec::new(),
        };
        for admitted in waiting {
            self.0.end(admitted.run, Err(error.clone().with_request_id(admitted.request_id)));
        }
    }

    fn pass(&self, admitted: Admitted) {
        let facts = match &mut *self.lock() {
            Gate::Shut(waiting) => return waiting.push(admitted),
            Gate::Open(facts) => facts.clone(),
        };
        let intake = Arc::clone(&self.0);
        pillion_tokenize::pool().spawn(move || intake.prepare(admitted, &facts));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Gate> {
        self.0.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn prepare(&self, admitted: Admitted, facts: &ModelFacts) {
        let run = admitted.run;
        if self.admission.is_aborted(run) {
            return self.end(run, Ok(aborted_early()));
        }
        let id = admitted.request_id.clone();
        let event = catch_unwind(AssertUnwindSafe(|| self.make(admitted, facts)))
            .unwrap_or_else(|payload| Err(Error::from_panic(&*payload).with_stage(Stage::Tokenize)));
        match event {
            Ok(event) => {
                // The engine drains its queue without ever waiting for this pool, so a full queue passes.
                if self.queue.send(event).is_err() {
                    self.end(run, Err(Error::new(ErrorCode::Closed, "the engine is closed").with_request_id(id)));
                }
            }
            Err(error) => self.end(run, Err(error.with_request_id(id))),
        }
    }

    fn make(&self, admitted: Admitted, facts: &ModelFacts) -> Result<EngineEvent> {
        let Admitted { run, arrival, request_id, make, received } = admitted;
        match make {
            Make::Generate(make) => {
                check_task("generate", facts)?;
                self.tokenize(run, arrival, make()?, received, facts).map(|new| EngineEvent::Add(Box::new(new)))
            }
            Make::Predict(make) => {
                check_task("predict", facts)?;
                let valid = make()?.validate()?;
                let deadline = valid.timeout().and_then(|timeout| received.checked_add(timeout));
                let items = valid.into_items();
                self.admission.charge_bytes(run, items.iter().map(ForwardItem::size).sum::<usize>() as u64)?;
                Ok(EngineEvent::AddCall(Box::new(NewCall { run, arrival, request_id, items, deadline })))
            }
        }
    }

    fn tokenize(
        &self,
        run: u32,
        arrival: u64,
        request: GenerateRequest,
        received: Instant,
        facts: &ModelFacts,
    ) -> Result<NewRun> {
        if let Prompt::Ids(ids) = &request.prompt
            && ids.len() > facts.max_context as usize
        {
            return Err(Error::new(
                ErrorCode::ContextLengthExceeded,
                format!("the prompt has {} tokens and the context is {}", ids.len(), facts.max_context),
            )
            .with_param("prompt"));
        }
        let mut valid = request.validate(&facts.defaults, facts.vocab_size)?;
        let ids = match valid.take_prompt() {
            Prompt::Ids(ids) => ids,
            Prompt::Text { text, add_special_tokens } => {
                let tokenizer = self.tokenizer.as_ref().ok_or_else(|| {
                    Error::new(ErrorCode::Unsupported, "the model's folder has no tokenizer.json")
                        .with_stage(Stage::Tokenize)
                        .with_remedy("pass token ids as the prompt")
                })?;
                let ids = tokenizer.encode_ids(&text, add_special_tokens);
                ids.map_err(|e| Error::from(e).with_stage(Stage::Tokenize))?
            }
        };
        valid.seed_or(|| RandomState::new().hash_one(run));
        let deadline = valid.timeout().and_then(|timeout| received.checked_add(timeout));
        let sequence = Sequence::new(valid, ids, facts.max_context)?;
        self.admission.charge(run, sequence.prompt_ids().len() as u64)?;
        Ok(NewRun { run, arrival, sequence, received, tokenized: Instant::now(), deadline })
    }

    fn refuse(&self, run: u32, error: Error) {
        Counters::add(&self.counters.failed, 1);
        let output = RunOutput { run, finish: Some(Err(error)), ..RunOutput::default() };
        self.outputs.deliver(vec![EngineOutput::Run(output)]);
    }

    fn end(&self, run: u32, finish: Result<Finish>) {
        if !self.admission.ended(run) {
            return;
        }
        match finish {
            Err(error) => self.refuse(run, error),
            Ok(finish) => {
                Counters::add(&self.counters.aborted, 1);
                let output = RunOutput { run, finish: Some(Ok(finish)), ..RunOutput::default() };
                self.outputs.deliver(vec![EngineOutput::Run(output)]);
            }
        }
    }
}

fn check_task(task: &str, facts: &ModelFacts) -> Result<()> {
    if facts.tasks.iter().any(|known| known == task) {
        return Ok(());
    }
    let known = facts.tasks.join(", ");
    Err(Error::new(ErrorCode::Unsupported, format!("this model cannot {task}; it can {known}"))
        .with_stage(Stage::Validate)
        .with_remedy(match task {
            "predict" => "load a class with model: { class: 'path/to/file.py:Name' }, or use generate() or chat()",
            _ => "load a model's folder, or use predict()",
        }))
}

fn aborted_early() -> Finish {
    Finish {
        finish_reason: FinishReason::Abort,
        stop_match: None,
        usage: Usage::default(),
        timings: std::collections::BTreeMap::new(),
    }
}
