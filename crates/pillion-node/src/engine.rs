//! The engine's handle in JS. `src/engine.ts` is the other side.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use napi::{
    Env, JsString, JsValue, Status,
    bindgen_prelude::{Either, Function, Uint8Array, Uint32Array, Uint32ArraySlice},
    sys,
    threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode},
};
use napi_derive::napi;
use pillion_core::{
    Backend, Error, ErrorCode, GenerateRequest, PredictRequest, Prompt, Result, SamplingOptions, Stage,
};
use pillion_engine::{Bell, Engine, EngineOptions, EngineOutput};
use pillion_tokenize::{TextArena, Tokenizer};

use crate::{
    bridge::{self, EarlyBackend},
    columns::{Column, write_into},
    error::to_js,
    fallback::BridgeChoice,
    load::{LoadOptions, Model},
    options::template_options,
    predict::Inputs,
    stream::Outbox,
    texts::{only_text, read_text},
    tokenizer::NativeTokenizer,
    turns::ask_for_short_turns,
};

/// Wakes JS; weak, so that by itself it does not keep Node alive.
type Wake = ThreadsafeFunction<(), (), (), Status, false, true>;

/// An engine. Freed by the garbage collector, or with its environment, it closes without waiting.
#[napi]
pub struct NativeEngine {
    shared: Arc<Shared>,
    wake: Arc<Wake>,
}

/// What the handle and the thread that loads share.
struct Shared {
    state: Mutex<State>,
    outbox: Arc<Outbox>,
}

enum State {
    /// The model is being looked for and the tokenizer read.
    Starting,
    Started {
        engine: Engine,
        tokenizer: Option<Tokenizer>,
        bridge: Option<Arc<BridgeChoice>>,
    },
    /// It failed, or was closed, before there was an engine.
    Over,
}

#[napi]
impl NativeEngine {
    /// Begins to load; what happens is told through `wake`, after which `drain` has it.
    #[napi(constructor, catch_unwind)]
    pub fn new(options: String, wake: Function<'_, (), ()>) -> napi::Result<Self> {
        let options = LoadOptions::parse(&options).map_err(to_js)?;
        let wake = wake.build_threadsafe_function().weak::<true>().callee_handled::<false>().build()?;
        let wake: Arc<Wake> = Arc::new(wake);
        let waker = Arc::clone(&wake);
        let outbox = Outbox::new(move || {
            // After the environment has gone there is nobody to wake.
            waker.call((), ThreadsafeFunctionCallMode::NonBlocking);
        });
        let shared = Arc::new(Shared { state: Mutex::new(State::Starting), outbox: Arc::new(outbox) });
        let loader = Arc::clone(&shared);
        thread::Builder::new().name("pillion-load".to_owned()).spawn(move || loader.load(&options)).map_err(|e| {
            to_js(Error::new(ErrorCode::OutOfMemory, "the loading thread could not be started").with_cause(e))
        })?;
        Ok(Self { shared, wake })
    }

    /// Whether Node stays alive for this engine.
    #[napi(catch_unwind)]
    pub fn set_referenced(&self, env: Env, referenced: bool) {
        self.wake.handle.with_read_aborted(|gone| {
            if gone {
                return;
            }
            let raw = self.wake.raw();
            // SAFETY: the function is not gone, and cannot go while the lock is held; this is the thread of its environment,
            // since `env` is what this call was made in and handles do not cross environments.
            let _ = unsafe {
                if referenced {
                    sys::napi_ref_threadsafe_function(env.raw(), raw)
                } else {
                    sys::napi_unref_threadsafe_function(env.raw(), raw)
                }
            };
        });
    }

    /// Everything that happened since the last call, as one record: written into `target` if it is long enough, and then how many words;
    /// otherwise an array of its own.
    #[napi(catch_unwind, ts_return_type = "number | Uint32Array")]
    pub fn drain(&self, target: Uint32ArraySlice<'_>) -> Either<u32, Column<u32>> {
        let record = self.shared.outbox.drain();
        match write_into(target, &record) {
            Ok(count) => Either::A(count),
            Err(_) => Either::B(Column(record)),
        }
    }

    /// The large tensors of a prediction that was drained, once. Each has memory of its own.
    #[napi(catch_unwind, ts_return_type = "Uint8Array[]")]
    pub fn take_tensors(&self, run: u32) -> Vec<Column<u8>> {
        self.shared.outbox.take_tensors(run).into_iter().map(Column).collect()
    }

    /// Begins a run. A failure of any kind is the run's output.
    #[napi(catch_unwind)]
    pub fn generate(
        &self,
        env: Env,
        run: u32,
        request_id: String,
        #[napi(ts_arg_type = "string | Uint32Array")] prompt: Either<JsString<'_>, Uint32Array>,
        add_special_tokens: bool,
        sampling: String,
    ) -> napi::Result<()> {
        let prompt = match prompt {
            Either::A(text) => Source::Text { text: read_text(env, &text.to_unknown(), "prompt")?, add_special_tokens },
            // Copied: JS may change or transfer its array while the request waits.
            Either::B(ids) => Source::Ids(ids.to_vec()),
        };
        self.begin(run, request_id, sampling, prompt)
    }

    /// Begins a run that answers a chat: `messages` and `template` are JSON.
    #[napi(catch_unwind)]
    pub fn chat(
        &self,
        env: Env,
        run: u32,
        request_id: String,
        #[napi(ts_arg_type = "string")] messages: JsString<'_>,
        template: String,
        sampling: String,
    ) -> napi::Result<()> {
        let messages = read_text(env, &messages.to_unknown(), "messages")?;
        self.begin(run, request_id, sampling, Source::Chat { messages, template })
    }

    /// Begins to answer the inputs of one call: `items` and `names` are JSON. A failure of any kind is the run's output.
    #[napi(catch_unwind)]
    #[allow(clippy::too_many_arguments, reason = "one crossing, without an object whose properties would be asked for")]
    pub fn predict(
        &self,
        env: Env,
        run: u32,
        request_id: String,
        #[napi(ts_arg_type = "string")] items: JsString<'_>,
        names: String,
        table: Uint32Array,
        data: Vec<Uint8Array>,
        timeout_ms: Option<f64>,
    ) -> napi::Result<()> {
        let items = read_text(env, &items.to_unknown(), "inputs")?;
        let store = match &*self.shared.lock() {
            State::Started { engine, .. } => engine.tensor_store(),
            _ => None,
        };
        // Without the lock: to copy may take a while.
        let inputs = Inputs::copy(items, names, &table, &data, store.as_deref());
        let State::Started { engine, .. } = &*self.shared.lock() else {
            return Err(to_js(Error::new(ErrorCode::Closed, "the engine is not loaded")));
        };
        let id = request_id.clone();
        engine.predict_from(run, request_id, move || {
            Ok(PredictRequest { request_id: id, items: inputs.into_items()?, timeout_ms })
        });
        Ok(())
    }

    /// Ends a run with the finish reason `abort`.
    #[napi(catch_unwind)]
    pub fn abort(&self, run: u32) {
        if let State::Started { engine, .. } = &*self.shared.lock() {
            engine.abort(run);
        }
    }

    /// Drains for so many milliseconds, aborts the rest and unloads. `closed` follows.
    #[napi(catch_unwind)]
    pub fn close(&self, drain_ms: f64) {
        let drain = Duration::try_from_secs_f64(drain_ms / 1000.0).unwrap_or(Duration::MAX);
        self.shared.close(drain);
    }

    /// The tokenizer, if the model has one.
    #[napi(catch_unwind)]
    pub fn tokenizer(&self) -> Option<NativeTokenizer> {
        match &*self.shared.lock() {
            State::Started { tokenizer, .. } => tokenizer.clone().map(NativeTokenizer::new),
            _ => None,
        }
    }

    /// `status()` as JSON.
    #[napi(catch_unwind)]
    pub fn status(&self) -> napi::Result<String> {
        let bridge = match &*self.shared.lock() {
            State::Started { bridge, .. } => bridge.as_ref().map(|choice| choice.now()),
            _ => None,
        };
        self.shared.with_engine(|engine| {
            let mut status = engine.status();
            // Which way was taken is known only here.
            if let Some((bridge, fallbacks)) = bridge {
                (status.bridge, status.fallbacks) = (Some(bridge), fallbacks);
            }
            to_json(&status)
        })
    }

    /// `metrics()` as JSON, with the text for Prometheus as `prometheus`.
    #[napi(catch_unwind)]
    pub fn metrics(&self) -> napi::Result<String> {
        self.shared.with_engine(|engine| {
            let metrics = engine.metrics();
            let prometheus = metrics.to_prometheus();
            to_json(&serde_json::json!({
                "counters": metrics.counters,
                "gauges": metrics.gauges,
                "prometheus": prometheus,
            }))
        })
    }
}

impl NativeEngine {
    fn begin(&self, run: u32, request_id: String, sampling: String, source: Source) -> napi::Result<()> {
        let State::Started { engine, tokenizer, .. } = &*self.shared.lock() else {
            return Err(to_js(Error::new(ErrorCode::Closed, "the engine is not loaded")));
        };
        let tokenizer = tokenizer.clone();
        let id = request_id.clone();
        engine.generate_from(run, request_id, move || {
            let sampling: SamplingOptions = serde_json::from_str(&sampling).map_err(|e| {
                Error::new(ErrorCode::InvalidArgument, format!("the options cannot be used: {e}"))
                    .with_stage(Stage::Validate)
            })?;
            let prompt = source.into_prompt(tokenizer.as_ref())?;
            Ok(GenerateRequest { request_id: id, prompt, sampling })
        });
        Ok(())
    }
}

impl Drop for NativeEngine {
    fn drop(&mut self) {
        self.shared.close(Duration::ZERO);
    }
}

/// Where a prompt comes from, before it is made on the pool.
enum Source {
    Text { text: TextArena, add_special_tokens: bool },
    Ids(Vec<u32>),
    Chat { messages: TextArena, template: String },
}

impl Source {
    fn into_prompt(self, tokenizer: Option<&Tokenizer>) -> Result<Prompt> {
        match self {
            Self::Text { text, add_special_tokens } => Ok(Prompt::Text { text: only_text(&text)?, add_special_tokens }),
            Self::Ids(ids) => Ok(Prompt::Ids(ids)),
            Self::Chat { messages, template } => {
                let tokenizer = tokenizer.ok_or_else(|| {
                    Error::new(ErrorCode::Unsupported, "the model's folder has no tokenizer.json")
                        .with_stage(Stage::Tokenize)
                        .with_remedy("render and encode the chat yourself and pass token ids to generate()")
                })?;
                let messages = parse(&only_text(&messages)?)?;
                Ok(Prompt::Ids(tokenizer.encode_chat(&messages, &template_options(&template)?)?))
            }
        }
    }
}

fn parse(json: &str) -> Result<serde_json::Value> {
    serde_json::from_str(json).map_err(|e| {
        Error::new(ErrorCode::InvalidArgument, format!("the messages cannot be used: {e}")).with_param("messages")
    })
}

fn to_json<T: serde::Serialize>(value: &T) -> napi::Result<String> {
    serde_json::to_string(value).map_err(|e| to_js(Error::internal(format!("a result could not be written: {e}"))))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_engine<T>(&self, read: impl FnOnce(&Engine) -> napi::Result<T>) -> napi::Result<T> {
        match &*self.lock() {
            State::Started { engine, .. } => read(engine),
            _ => Err(to_js(Error::new(ErrorCode::Closed, "the engine is not loaded"))),
        }
    }

    fn close(&self, drain: Duration) {
        let mut state = self.lock();
        match &*state {
            State::Started { engine, .. } => engine.close(drain),
            // The thread that loads sees it, and says that it is closed.
            State::Starting => *state = State::Over,
            State::Over => {}
        }
    }

    /// Runs on a thread of its own: looks for the model, starts the backend, reads the tokenizer, starts the engine.
    fn load(&self, options: &LoadOptions) {
        // Unwind safety: the state is set last, by assignment, so that a panic leaves `Starting`, which is handled below.
        let started = catch_unwind(AssertUnwindSafe(|| self.start(options)))
            .unwrap_or_else(|payload| Err(Error::from_panic(&*payload).with_stage(Stage::Load)));
        if let Err(error) = started {
            *self.lock() = State::Over;
            self.outbox.put(vec![EngineOutput::LoadFailed(error)]);
        }
    }

    fn start(&self, options: &LoadOptions) -> Result<()> {
        let model = options.find_model()?;
        let chosen = bridge::choose(options, &model)?;
        if let Some(threads) = options.threads.tokenizer {
            pillion_tokenize::set_num_threads(threads as usize)?;
        }
        let bell = Bell::new();
        let mut backend = EarlyBackend::start(chosen.backend, &bell)?;
        let tokenizer = read_tokenizer(&model).inspect_err(|_| backend.close(Duration::ZERO))?;
        let engine_options = EngineOptions {
            bell: Some(bell),
            limits: options.limits.clone(),
            bridge: chosen.bridge.as_ref().map(|choice| choice.now().0),
            fallbacks: Vec::new(),
            model_name: options.model_name(),
            on_thread_start: Some(ask_for_short_turns),
        };
        // Held over the start: the engine's first output can be in JS, which then asks for the engine, before this thread goes on.
        let mut state = self.lock();
        if matches!(*state, State::Over) {
            backend.close(Duration::ZERO);
            self.outbox.put(vec![EngineOutput::Closed]);
            return Ok(());
        }
        let outputs = Arc::<Outbox>::clone(&self.outbox);
        let engine = Engine::start(engine_options, tokenizer.clone(), Box::new(backend), outputs)?;
        *state = State::Started { engine, tokenizer, bridge: chosen.bridge };
        Ok(())
    }
}

/// A model without a `tokenizer.json` takes token ids only.
fn read_tokenizer(model: &Model) -> Result<Option<Tokenizer>> {
    match model {
        Model::Echo { .. } => Ok(Some(Tokenizer::byte())),
        Model::Pretrained { folder } if folder.join("tokenizer.json").is_file() => {
            Ok(Some(Tokenizer::from_pretrained(folder)?))
        }
        Model::Pretrained { .. } | Model::Class { .. } => Ok(None),
    }
}
