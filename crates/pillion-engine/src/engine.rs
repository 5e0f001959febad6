//! The handle of an engine, and its thread.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::TrySendError;
use pillion_core::{
    Backend, BackendEvent, BackendEvents, BridgeKind, Error, ErrorCode, GenerateRequest, Limits, PredictRequest,
    Result, forward::TensorStore,
};
use pillion_tokenize::Tokenizer;

use crate::{
    admit::Admission,
    bell::{Bell, QueueReceiver, QueueSender, queue},
    core_loop::{EngineCore, Next, Shared},
    event::EngineEvent,
    intake::{Intake, Make},
    metrics::{Counters, Metrics},
    output::{EngineOutput, Outputs},
    status::{EngineState, EngineStatus, Fallback, ModelStatus, StatusBoard, rss_bytes},
};

/// Room for what is neither a request nor an abort: step outputs, progress, log lines.
const QUEUE_SPARE: usize = 1024;

/// How an engine is started.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Its bounds.
    pub limits: Limits,
    /// The way to Python, for `status()`; `None` for a model that needs none.
    pub bridge: Option<BridgeKind>,
    /// Ways that were tried first, for `status()`.
    pub fallbacks: Vec<Fallback>,
    /// The model's name until the worker tells its own.
    pub model_name: String,
    /// The bell that the backend was told of, if it was started before; else the engine makes one.
    pub bell: Option<Bell>,
    /// Called first of all on the engine's thread, for what only its owner may ask of the system.
    pub on_thread_start: Option<fn()>,
}

/// A running engine. Dropping the handle closes it without waiting.
pub struct Engine {
    options: EngineOptions,
    admission: Arc<Admission>,
    counters: Arc<Counters>,
    board: Arc<Mutex<StatusBoard>>,
    intake: Intake,
    queue: QueueSender<EngineEvent>,
}

impl Engine {
    /// Starts loading and returns at once: [`EngineOutput::Ready`] or [`EngineOutput::LoadFailed`] follows. Requests may be made
    /// before that; they wait within the bounds.
    pub fn start(
        options: EngineOptions,
        tokenizer: Option<Tokenizer>,
        mut backend: Box<dyn Backend>,
        outputs: Arc<dyn Outputs>,
    ) -> Result<Self> {
        let bell = options.bell.clone().unwrap_or_default();
        let (queue, events) = queue(options.limits.max_queued_requests as usize + QUEUE_SPARE, bell.clone());
        let admission = Arc::new(Admission::new(&options.limits));
        let counters = Arc::new(Counters::default());
        let intake = Intake::new(
            tokenizer.clone(),
            Arc::clone(&admission),
            Arc::clone(&counters),
            Arc::clone(&outputs),
            queue.clone(),
        );
        let board = Arc::new(Mutex::new(StatusBoard {
            state: EngineState::Starting,
            info: None,
            workers: backend.workers(),
            tensor_store: None,
        }));
        backend.start(bell.tell(backend_events(queue.clone(), Arc::clone(&counters))))?;
        let shared = Shared {
            admission: Arc::clone(&admission),
            counters: Arc::clone(&counters),
            board: Arc::clone(&board),
            intake: intake.clone(),
        };
        let core = EngineCore::new(options.limits.clone(), shared, tokenizer, backend);
        let on_thread_start = options.on_thread_start;
        thread::Builder::new()
            .name("pillion-engine".to_owned())
            .spawn(move || {
                if let Some(on_thread_start) = on_thread_start {
                    on_thread_start();
                }
                run(core, &events, outputs.as_ref());
            })
            .map_err(|e| {
                Error::new(ErrorCode::OutOfMemory, "the engine's thread could not be started").with_cause(e)
            })?;
        Ok(Self { options, admission, counters, board, intake, queue })
    }

    /// Begins to answer `request` as run `run`, a number of the caller's that is free. Never blocks; every failure, also a refused
    /// option, is the run's output.
    pub fn generate(&self, run: u32, request: GenerateRequest) {
        let id = request.request_id.clone();
        self.intake.take(run, id, Make::Generate(Box::new(move || Ok(request))));
    }

    /// As [`Engine::generate`], with a request that is made on the tokenizer's pool once there is room for it.
    pub fn generate_from(
        &self,
        run: u32,
        request_id: String,
        make: impl FnOnce() -> Result<GenerateRequest> + Send + 'static,
    ) {
        self.intake.take(run, request_id, Make::Generate(Box::new(make)));
    }

    /// Begins to answer inputs as run `run`, with a model that is no generator. The request is made on the tokenizer's pool once there is
    /// room for it. Ends in one [`EngineOutput::Prediction`], or as a run does if the call fails as a whole.
    pub fn predict_from(
        &self,
        run: u32,
        request_id: String,
        make: impl FnOnce() -> Result<PredictRequest> + Send + 'static,
    ) {
        self.intake.take(run, request_id, Make::Predict(Box::new(make)));
    }

    /// Where the tensors of a coming [`Engine::predict_from`] can be put at once, so that no thread of the engine's has to copy them. `None` while no
    /// worker is there, and where there is no such memory.
    pub fn tensor_store(&self) -> Option<Arc<dyn TensorStore>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).tensor_store.clone()
    }

    /// Ends a run with the finish reason `abort`. One that is over stays as it ended.
    pub fn abort(&self, run: u32) {
        if self.admission.abort(run) {
            self.wake();
        }
    }

    /// Takes no more requests, lets what runs finish for `drain`, aborts the rest and unloads. Returns at once;
    /// [`EngineOutput::Closed`] follows. Calling it again can only shorten the drain.
    pub fn close(&self, drain: Duration) {
        self.admission.close(drain);
        self.wake();
    }

    /// The engine as it is now.
    pub fn status(&self) -> EngineStatus {
        let (waiting, waiting_tokens) = self.admission.waiting();
        let running = self.admission.num_runs() as u32 - waiting.min(self.admission.num_runs() as u32);
        let board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        let mut workers = board.workers.clone();
        for worker in &mut workers {
            worker.rss_bytes = rss_bytes(worker.pid);
        }
        let name = self.options.model_name.clone();
        EngineStatus {
            state: board.state,
            bridge: self.options.bridge,
            fallbacks: self.options.fallbacks.clone(),
            model: board
                .info
                .as_ref()
                .map_or_else(|| ModelStatus { name, ..ModelStatus::default() }, |info| ModelStatus::from(&info.model)),
            python: board.info.as_ref().and_then(|info| info.python.clone()),
            workers,
            running,
            waiting,
            waiting_tokens,
        }
    }

    /// Counts since the start.
    #[expect(clippy::cast_precision_loss, reason = "2^53 is more than any of these reaches")]
    pub fn metrics(&self) -> Metrics {
        let (waiting, tokens) = self.admission.waiting();
        let running = self.admission.num_runs().saturating_sub(waiting as usize);
        let gauges = [
            ("pillion_forward_items_waiting", self.counters.items_waiting.load(Relaxed) as f64),
            ("pillion_requests_running", running as f64),
            ("pillion_requests_waiting", f64::from(waiting)),
            ("pillion_prompt_tokens_waiting", tokens as f64),
        ];
        Metrics {
            counters: self.counters.read(),
            gauges: gauges.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    }

    fn wake(&self) {
        // A full queue wakes the engine all the same.
        let _ = self.queue.try_send(EngineEvent::Wake);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("options", &self.options).finish_non_exhaustive()
    }
}

fn backend_events(queue: QueueSender<EngineEvent>, counters: Arc<Counters>) -> BackendEvents {
    BackendEvents::new(move |event| {
        let is_log = matches!(event, BackendEvent::Log(_) | BackendEvent::Progress(_));
        let event = EngineEvent::Backend(event);
        if is_log {
            // A chatty model must not be able to hold up its own steps.
            if let Err(TrySendError::Full(_)) = queue.try_send(event) {
                Counters::add(&counters.logs_dropped, 1);
            }
        } else {
            // After the engine has ended there is nobody to tell.
            let _ = queue.send(event);
        }
    })
}

fn run(mut core: EngineCore, events: &QueueReceiver<EngineEvent>, outputs: &dyn Outputs) {
    let mut batch = Vec::new();
    loop {
        let Ok(rung) = events.wait(core.next_deadline(), &mut batch) else { return };
        batch.extend(events.queue.try_iter());
        if rung > 0 {
            core.rung(rung, &mut batch);
        }
        let (out, next) = core.turn(&mut batch, Instant::now());
        deliver(outputs, out);
        if next == Next::End {
            return;
        }
    }
}

fn deliver(outputs: &dyn Outputs, out: Vec<EngineOutput>) {
    if out.is_empty() {
        return;
    }
    // The receiver's bug is not ours to die of; its callers see what it lost.
    let _ = catch_unwind(AssertUnwindSafe(|| outputs.deliver(out)));
}
