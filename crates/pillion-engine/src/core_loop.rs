//! The engine's state and what each event does to it. Told the time, it neither reads a clock nor waits; [`crate::engine`] does both.

mod predict;
mod tell;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use pillion_core::{
    Backend, BackendEvent, Error, ErrorCode, FinishReason, Limits, LogLevel, Stage, StopMatch, WorkerInfo,
    step::StepOutput,
};
use pillion_schedule::{Ended, Scheduler, SchedulerConfig};
use pillion_tokenize::Tokenizer;

use crate::{
    admit::Admission,
    calls::Calls,
    event::{EngineEvent, NewRun},
    intake::{Intake, ModelFacts},
    metrics::Counters,
    output::{EngineOutput, RunOutput},
    run::Run,
    status::{EngineState, StatusBoard},
};

/// Forward passes longer than this gain nothing from a second step in flight, and a stop would be seen a step late.
const PIPELINE_BELOW: Duration = Duration::from_millis(20);
/// What unloading may take.
const UNLOAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Workers that may be lost under one request before it is given up.
const MAX_LOST_WORKERS: u32 = 2;

/// Whether the engine's thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Continue,
    End,
}

/// What the core shares with handles and pool.
pub(crate) struct Shared {
    pub(crate) admission: Arc<Admission>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) board: Arc<Mutex<StatusBoard>>,
    pub(crate) intake: Intake,
}

/// All state of an engine. Owned by its one thread.
pub(crate) struct EngineCore {
    limits: Limits,
    shared: Shared,
    tokenizer: Option<Tokenizer>,
    backend: Box<dyn Backend>,
    /// Made when the model is known.
    scheduler: Option<Scheduler>,
    runs: HashMap<u32, Run>,
    /// What waits for forwards and not for steps.
    calls: Calls,
    /// Inputs that one forward may have.
    max_items: usize,
    /// Whether a forward comes before a step, if both can be submitted.
    forward_first: bool,
    deadlines: BinaryHeap<Reverse<(Instant, u32)>>,
    /// Runs with something to deliver.
    touched: Vec<u32>,
    outputs: Vec<EngineOutput>,
    /// No worker is there to submit to.
    awaits_worker: bool,
    /// Moving average of the forward passes.
    forward: Option<Duration>,
    closing: Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    No,
    /// What runs may finish until then.
    Draining(Instant),
    /// The backend unloads; after this we go without its word.
    Unloading(Instant),
    Done,
}

impl EngineCore {
    pub(crate) fn new(limits: Limits, shared: Shared, tokenizer: Option<Tokenizer>, backend: Box<dyn Backend>) -> Self {
        Self {
            max_items: limits.max_running.max(1) as usize,
            calls: Calls::default(),
            forward_first: false,
            limits,
            shared,
            tokenizer,
            backend,
            scheduler: None,
            runs: HashMap::new(),
            deadlines: BinaryHeap::new(),
            touched: Vec::new(),
            outputs: Vec::new(),
            awaits_worker: true,
            forward: None,
            closing: Closing::No,
        }
    }

    /// When [`Self::turn`] must be called at the latest, though nothing happens.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let closing = match self.closing {
            Closing::Draining(at) | Closing::Unloading(at) => Some(at),
            Closing::No | Closing::Done => None,
        };
        let request = self.deadlines.peek().map(|Reverse((at, _))| *at);
        [closing, request].into_iter().flatten().min()
    }

    /// Adds answers that another process has rung.
    pub(crate) fn rung(&mut self, count: u32, events: &mut Vec<EngineEvent>) {
        self.guard(Stage::Update, |core| {
            core.backend.rung(count, &mut |event| events.push(EngineEvent::Backend(event)));
        });
    }

    /// Takes in all that has happened, keeps the worker busy, and gives what is to be delivered.
    pub(crate) fn turn(&mut self, events: &mut Vec<EngineEvent>, now: Instant) -> (Vec<EngineOutput>, Next) {
        for event in events.drain(..) {
            self.guard(Stage::Update, |core| core.handle(event, now));
        }
        self.guard(Stage::Update, |core| core.control(now));
        self.guard(Stage::Update, |core| core.expire(now));
        self.guard(Stage::Schedule, |core| core.submit(now));
        self.shared.counters.items_waiting.store(self.calls.num_waiting() as u64, Relaxed);
        self.guard(Stage::Update, |core| core.close_when_idle(now));
        self.guard(Stage::Stream, Self::collect);
        let next = if self.closing == Closing::Done { Next::End } else { Next::Continue };
        (std::mem::take(&mut self.outputs), next)
    }

    /// A bug of ours ends the requests that it met, not the process.
    fn guard(&mut self, stage: Stage, work: impl FnOnce(&mut Self)) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(self))) {
            self.fail_all(&Error::from_panic(&*payload).with_stage(stage));
        }
    }

    fn handle(&mut self, event: EngineEvent, now: Instant) {
        match event {
            EngineEvent::Wake => {}
            EngineEvent::Add(new) => self.add(*new, now),
            EngineEvent::AddCall(new) => self.add_call(*new, now),
            EngineEvent::Backend(BackendEvent::StepDone(output)) => self.step_done(&output, now),
            EngineEvent::Backend(BackendEvent::ForwardDone(output)) => self.forward_done(output),
            EngineEvent::Backend(BackendEvent::Ready(info)) => self.ready(*info),
            EngineEvent::Backend(BackendEvent::LoadFailed(error)) => self.load_failed(error, now),
            EngineEvent::Backend(BackendEvent::WorkerLost(error)) => self.worker_lost(&error),
            EngineEvent::Backend(BackendEvent::Progress(p)) => self.outputs.push(EngineOutput::Progress(p)),
            EngineEvent::Backend(BackendEvent::Log(r)) => self.outputs.push(EngineOutput::Log(r)),
            EngineEvent::Backend(BackendEvent::Closed) => self.closed(),
        }
    }

    /// The first worker, or one in the place of a lost one.
    fn ready(&mut self, info: WorkerInfo) {
        let facts = self.facts(&info);
        self.board(|board| {
            board.info = Some(info);
            if matches!(board.state, EngineState::Starting | EngineState::Degraded) {
                board.state = EngineState::Ready;
            }
        });
        if let Some((config, facts)) = facts {
            self.scheduler = Some(Scheduler::new(config));
            self.outputs.push(EngineOutput::Ready);
            self.shared.intake.open(facts);
        }
        self.awaits_worker = false;
    }

    /// What the scheduler and the intake need of the model; `None` if they have it, since a restarted worker has loaded the same model.
    fn facts(&self, info: &WorkerInfo) -> Option<(SchedulerConfig, ModelFacts)> {
        if self.scheduler.is_some() {
            return None;
        }
        let model = &info.model;
        let limit = self.limits.max_context.unwrap_or(u32::MAX);
        // A sequence longer than the whole cache could never run.
        let cache = u32::try_from(model.kv_tokens).unwrap_or(u32::MAX);
        let max_context = model.max_context.min(limit).min(cache);
        let num_slots = model.num_slots.min(self.limits.max_running).max(1);
        let config = SchedulerConfig {
            num_slots,
            kv_tokens: model.kv_tokens,
            max_batch_tokens: self.limits.max_batch_tokens.max(num_slots),
            eos_token_ids: model.eos_token_ids.clone(),
        };
        let (defaults, tasks) = (model.defaults.clone(), model.tasks.clone());
        Some((config, ModelFacts { defaults, vocab_size: model.vocab_size, max_context, tasks }))
    }

    fn load_failed(&mut self, error: Error, now: Instant) {
        let error = error.with_stage(Stage::Load);
        self.board(|board| board.state = EngineState::Failed);
        self.shared.admission.shut(error.clone());
        self.shared.intake.fail_waiting(&error);
        self.fail_all(&error);
        self.outputs.push(EngineOutput::LoadFailed(error));
        self.start_unloading(now);
    }

    /// What ran is turned into new prefills, prompt and emitted tokens together, for the worker that takes the lost one's place. Streams simply go on.
    fn worker_lost(&mut self, error: &Error) {
        let error = error.clone().with_stage(Stage::Forward);
        self.awaits_worker = true;
        self.board(|board| board.state = EngineState::Degraded);
        let cut = self.scheduler.as_mut().map(Scheduler::requeue_running).unwrap_or_default();
        let mut names = self.names_of(&cut);
        names.extend(self.calls.names_in_flight(None));
        for id in cut {
            self.shared.admission.requeued(id);
            // A request that takes every worker down with it must not do so for ever.
            if self.runs.get_mut(&id).is_some_and(|run| run.lost() > MAX_LOST_WORKERS) {
                self.drop_run(id);
                self.fail(id, error.clone());
            }
        }
        self.calls_lost(&error);
        self.tell(LogLevel::Error, error.to_string(), &names);
    }

    fn add(&mut self, new: NewRun, now: Instant) {
        if self.closing == Closing::Done {
            return;
        }
        let run = Run::new(&new, self.tokenizer.as_ref());
        if self.shared.admission.is_aborted(new.run) {
            return self.end(run.finish(FinishReason::Abort, None, now));
        }
        if run.deadline.is_some_and(|at| at <= now) {
            return self.end(run.fail(deadline_exceeded(0)));
        }
        let Some(scheduler) = &mut self.scheduler else {
            return self.end(run.fail(Error::internal("a request came through before the model was known")));
        };
        if let Some(at) = run.deadline {
            self.deadlines.push(Reverse((at, new.run)));
        }
        scheduler.add(new.run, new.arrival, new.sequence);
        self.runs.insert(new.run, run);
    }

    fn step_done(&mut self, output: &StepOutput, now: Instant) {
        let counters = Arc::clone(&self.shared.counters);
        Counters::add(&counters.steps, 1);
        self.learn(output.forward_ns);
        let Some(scheduler) = &mut self.scheduler else { return };
        if let Some(error) = output.error.clone().or_else(|| scheduler.check_output(output).err()) {
            Counters::add(&counters.steps_failed, 1);
            let runs = scheduler.step_failed(output.step_id);
            let names = self.names_of(&runs);
            self.tell_failed(&format!("step {}", output.step_id), &error, &names);
            for run in runs {
                self.fail(run, error.clone().with_stage(Stage::Forward));
            }
            return;
        }
        let (tokens, ended) = scheduler.update_from_output(output);
        Counters::add(&counters.completion_tokens, tokens.len() as u64);
        for token in tokens {
            // A bug that one text shows must not end the others of its batch.
            let caught = catch_unwind(AssertUnwindSafe(|| self.push_token(&token, output, now)));
            if let Err(payload) = caught {
                self.drop_run(token.run);
                self.fail(token.run, Error::from_panic(&*payload).with_stage(Stage::Detokenize));
            }
        }
        for ended in ended {
            match ended {
                Ended::Finished { run, reason, stop_match } => self.finish(run, reason, stop_match, now),
                Ended::RowFailed { run } => self.fail(run, row_failed()),
            }
        }
    }

    fn learn(&mut self, forward_ns: u64) {
        Counters::add(&self.shared.counters.forward_us, forward_ns / 1000);
        let took = Duration::from_nanos(forward_ns);
        self.forward = Some(self.forward.map_or(took, |average| (average * 7 + took) / 8));
    }

    fn push_token(&mut self, token: &pillion_schedule::TokenEvent, output: &StepOutput, now: Instant) {
        let Some(run) = self.runs.get_mut(&token.run) else { return };
        let stop_match = run.push(token, output, now);
        if !std::mem::replace(&mut run.is_touched, true) {
            self.touched.push(token.run);
        }
        if let Some(stop_match) = stop_match {
            self.drop_run(token.run);
            self.finish(token.run, FinishReason::Stop, Some(stop_match), now);
        }
    }

    fn control(&mut self, now: Instant) {
        let control = self.shared.admission.take_control();
        for run in control.aborted {
            if self.runs.contains_key(&run) {
                self.drop_run(run);
                self.finish(run, FinishReason::Abort, None, now);
            } else {
                self.drop_call(run, Ok(FinishReason::Abort));
            }
        }
        let Some(drain) = control.close else { return };
        match self.closing {
            Closing::Unloading(_) | Closing::Done => {}
            Closing::No | Closing::Draining(_) => {
                self.board(|board| board.state = EngineState::Draining);
                self.closing = Closing::Draining(now.checked_add(drain).unwrap_or(now + UNLOAD_TIMEOUT));
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(Reverse((at, run))) = self.deadlines.peek().copied() {
            if at > now {
                break;
            }
            self.deadlines.pop();
            if let Some(tokens) = self.runs.get(&run).map(Run::completion_tokens) {
                self.drop_run(run);
                self.fail(run, deadline_exceeded(tokens));
            } else if self.calls.contains(run) {
                self.drop_call(run, Err(call_too_late()));
            }
        }
    }

    /// Keeps the worker busy: never waits to fill a batch. Steps and forwards take turns where there are both.
    fn submit(&mut self, now: Instant) {
        if self.awaits_worker || matches!(self.closing, Closing::Unloading(_) | Closing::Done) {
            return;
        }
        let pipelined = self.forward.is_some_and(|f| f < PIPELINE_BELOW);
        let depth = if pipelined { self.backend.max_in_flight() } else { 1 };
        while self.num_in_flight() < depth {
            let went = (self.forward_first && self.submit_forward()) || self.submit_step(now) || self.submit_forward();
            self.forward_first = !self.forward_first;
            if !went {
                break;
            }
        }
    }

    fn num_in_flight(&self) -> usize {
        self.scheduler.as_ref().map_or(0, Scheduler::num_in_flight) + self.calls.num_in_flight()
    }

    /// Submits one step if there is one. Gives whether it did.
    fn submit_step(&mut self, now: Instant) -> bool {
        let Some(scheduler) = &mut self.scheduler else { return false };
        let Some(step) = scheduler.schedule() else { return false };
        Counters::add(&self.shared.counters.prompt_tokens, step.prompts.len() as u64);
        for run in scheduler.runs_entered(&step) {
            self.shared.admission.started(run);
            if let Some(run) = self.runs.get_mut(&run) {
                run.scheduled(now);
            }
        }
        if let Err(error) = self.backend.submit(&step) {
            if error.code() == ErrorCode::WorkerLost {
                // Its worker has gone, and we have not heard of it yet: once we do, this step is as lost as one that was sent.
                return false;
            }
            for run in scheduler.step_failed(step.step_id) {
                self.fail(run, error.clone().with_stage(Stage::Forward));
            }
            return false;
        }
        true
    }

    fn close_when_idle(&mut self, now: Instant) {
        match self.closing {
            Closing::Draining(at) => {
                if at <= now {
                    let runs: Vec<u32> = self.runs.keys().copied().collect();
                    for run in runs {
                        self.drop_run(run);
                        self.finish(run, FinishReason::Abort, None, now);
                    }
                    for run in self.calls.runs() {
                        self.drop_call(run, Ok(FinishReason::Abort));
                    }
                    self.shared.intake.fail_waiting(&Error::new(ErrorCode::Closed, "the engine is closed"));
                    self.start_unloading(now);
                } else if self.shared.admission.num_runs() == 0 {
                    self.start_unloading(now);
                }
            }
            Closing::Unloading(at) if at <= now => self.closed(),
            _ => {}
        }
    }

    fn start_unloading(&mut self, now: Instant) {
        if matches!(self.closing, Closing::Unloading(_) | Closing::Done) {
            return;
        }
        // A little more than the backend was given, should it never answer.
        self.closing = Closing::Unloading(now + UNLOAD_TIMEOUT + UNLOAD_TIMEOUT / 2);
        self.backend.close(UNLOAD_TIMEOUT);
    }

    fn closed(&mut self) {
        if self.closing == Closing::Done {
            return;
        }
        self.closing = Closing::Done;
        let error = Error::new(ErrorCode::Closed, "the engine is closed");
        self.fail_all(&error);
        // Requests that are being tokenized: the pool finds them ended.
        for run in self.shared.admission.take_all() {
            Counters::add(&self.shared.counters.failed, 1);
            let finish = Some(Err(error.clone()));
            self.outputs.push(EngineOutput::Run(RunOutput { run, finish, ..RunOutput::default() }));
        }
        self.board(|board| {
            if board.state != EngineState::Failed {
                board.state = EngineState::Closed;
            }
        });
        self.outputs.push(EngineOutput::Closed);
    }

    fn fail_all(&mut self, error: &Error) {
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.clear();
        }
        let runs: Vec<u32> = self.runs.keys().copied().collect();
        for run in runs {
            self.fail(run, error.clone());
        }
        for run in self.calls.runs() {
            self.drop_call(run, Err(error.clone()));
        }
    }

    fn drop_run(&mut self, run: u32) {
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.remove(run);
        }
    }

    fn finish(&mut self, run: u32, reason: FinishReason, stop_match: Option<StopMatch>, now: Instant) {
        if let Some(run) = self.runs.remove(&run) {
            self.end(run.finish(reason, stop_match, now));
        }
    }

    fn fail(&mut self, run: u32, error: Error) {
        if let Some(run) = self.runs.remove(&run) {
            self.end(run.fail(error));
        }
    }

    fn end(&mut self, output: RunOutput) {
        let counters = &self.shared.counters;
        match &output.finish {
            Some(Ok(f)) if f.finish_reason == FinishReason::Abort => Counters::add(&counters.aborted, 1),
            Some(Ok(_)) => Counters::add(&counters.finished, 1),
            _ => Counters::add(&counters.failed, 1),
        }
        self.shared.admission.ended(output.run);
        self.outputs.push(EngineOutput::Run(output));
    }

    fn collect(&mut self) {
        for run in std::mem::take(&mut self.touched) {
            let output = self.runs.get_mut(&run).and_then(Run::take_output);
            self.outputs.extend(output.map(EngineOutput::Run));
        }
    }

    fn board(&self, change: impl FnOnce(&mut StatusBoard)) {
        let mut board = self.shared.board.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut board);
        board.workers = self.backend.workers();
        board.tensor_store = self.backend.tensor_store();
    }
}

fn deadline_exceeded(tokens: u32) -> Error {
    Error::new(ErrorCode::DeadlineExceeded, format!("timeoutMs passed after {tokens} tokens")).with_stage(Stage::Queue)
}

fn call_too_late() -> Error {
    Error::new(ErrorCode::DeadlineExceeded, "timeoutMs passed before the results were there").with_stage(Stage::Queue)
}

fn row_failed() -> Error {
    Error::new(ErrorCode::PythonError, "the model gave logits that are not finite")
        .with_stage(Stage::Forward)
        .with_remedy("try dtype: 'float32'; if it stays, the weights are damaged")
}
