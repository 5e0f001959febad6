//! Picks the way to a model: the one place in the addon that names a backend.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use pillion_backend_echo::{EchoBackend, EchoOptions};
use pillion_backend_embedded::{EmbeddedBackend, EmbeddedOptions, find_for_process};
use pillion_backend_worker::{Attach, Transport, WorkerBackend, WorkerOptions};
use pillion_core::{
    Backend, BackendEvent, BackendEvents, BridgeKind, Error, ErrorCode, LoadConfig, LoadLimits, ModelSource, Result,
    Stage, WorkerStatus,
    forward::{ForwardBatch, TensorStore},
    step::Step,
};
use pillion_engine::Bell;

use crate::{
    exit,
    fallback::{BridgeChoice, Candidate, FallbackBackend},
    load::{LoadOptions, Model, Workers},
};

/// Overrides `bridge: 'auto'`.
const BRIDGE_VARIABLE: &str = "PILLION_BRIDGE";

/// A backend that is chosen, and what `status()` says of the way to it.
pub(crate) struct Chosen {
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) bridge: Option<Arc<BridgeChoice>>,
}

/// The backend for a model; nothing of it runs yet.
pub(crate) fn choose(options: &LoadOptions, model: &Model) -> Result<Chosen> {
    match model {
        Model::Echo { step_time } => {
            let echo = EchoOptions { step_time: *step_time, num_slots: options.limits.max_running };
            Ok(Chosen { backend: Box::new(EchoBackend::new(echo)), bridge: None })
        }
        Model::Pretrained { folder } => in_python(
            options,
            ModelSource::Pretrained {
                path: folder.to_string_lossy().into_owned(),
                trust_remote_code: options.trust_remote_code.unwrap_or(false),
            },
        ),
        Model::Class { spec, options: given } => {
            in_python(options, ModelSource::Class { spec: spec.clone(), options: given.clone() })
        }
    }
}

fn in_python(options: &LoadOptions, source: ModelSource) -> Result<Chosen> {
    let place = Place {
        python: options.python.clone(),
        python_path: vec![options.python_folder.clone()],
        load: load_config(options, source),
        attach: attach(options)?,
    };
    let bridges = bridges(options.bridge.as_deref(), place.attach.is_some())?;
    let choice = Arc::new(BridgeChoice::new(bridges[0]));
    let backend: Box<dyn Backend> = if let [bridge] = bridges {
        place.backend(*bridge)?
    } else {
        let candidate = |bridge: &BridgeKind| {
            let (bridge, place) = (*bridge, place.clone());
            Candidate { bridge, make: Box::new(move || place.backend(bridge)) }
        };
        let candidates = bridges.iter().map(candidate).collect();
        Box::new(FallbackBackend::new(candidates, Arc::clone(&choice)))
    };
    Ok(Chosen { backend, bridge: Some(choice) })
}

/// What a backend for a Python model is made from.
#[derive(Clone)]
struct Place {
    python: Option<String>,
    python_path: Vec<PathBuf>,
    load: LoadConfig,
    attach: Option<Attach>,
}

impl Place {
    fn backend(self, bridge: BridgeKind) -> Result<Box<dyn Backend>> {
        let Self { python, python_path, load, attach } = self;
        if bridge == BridgeKind::Embedded {
            exit::python_may_start();
            let options = EmbeddedOptions { python, python_path, load, bridge_library: None };
            return Ok(Box::new(EmbeddedBackend::new(options)));
        }
        // One that somebody else has started brings its own.
        let is_needed = attach.as_ref().is_none_or(|attach| attach.start);
        let python = if is_needed { find_for_process(python.as_deref())? } else { PathBuf::new() };
        let mut options = WorkerOptions::new(python, python_path, load);
        options.transport = if bridge == BridgeKind::Shm { Transport::Shm } else { Transport::Grpc };
        options.attach = attach;
        // Its part for Python is used in a process of Python's too, which does without where it cannot load it.
        let library = pillion_backend_embedded::bridge_library().ok().and_then(|path| path.to_str().map(str::to_owned));
        options.env.extend(library.map(|path| ("PILLION_BRIDGE_LIBRARY".to_owned(), path)));
        Ok(Box::new(WorkerBackend::new(options)))
    }
}

/// The worker that `workers` names, if it names one.
fn attach(options: &LoadOptions) -> Result<Option<Attach>> {
    let start = options.start_workers.unwrap_or(false);
    let refused = |expected: &str, got: &str| Err(Error::invalid("workers", expected, got).with_stage(Stage::Load));
    let addresses = match &options.workers {
        None | Some(Workers::Count(1)) if start => return refused("an array of addresses with startWorkers", "none"),
        None | Some(Workers::Count(1)) => return Ok(None),
        Some(Workers::Count(0)) => return refused("an integer of at least 1 or an array of addresses", "0"),
        Some(Workers::Count(count)) => return Err(one_worker(*count as usize)),
        Some(Workers::At(addresses)) => addresses,
    };
    match addresses.as_slice() {
        [] => refused("an array of one address", "an empty array"),
        [address] => match address.strip_prefix("unix:").map(PathBuf::from).filter(|path| path.is_absolute()) {
            Some(socket) => Ok(Some(Attach { socket, start })),
            None => refused("addresses such as 'unix:/run/worker.sock'", &format!("'{address}'")),
        },
        more => Err(one_worker(more.len())),
    }
}

fn one_worker(got: usize) -> Error {
    Error::new(ErrorCode::Unsupported, format!("this version drives one worker, not {got}"))
        .with_stage(Stage::Load)
        .with_param("workers")
        .with_remedy("load one engine for each worker")
}

/// The ways to try, best first. A worker of somebody else's is reached over gRPC.
fn bridges(option: Option<&str>, attaches: bool) -> Result<&'static [BridgeKind]> {
    use BridgeKind::{Embedded, Grpc, Shm};
    let asked = match option {
        None | Some("auto") if attaches => None,
        None | Some("auto") => std::env::var(BRIDGE_VARIABLE).ok().filter(|value| !value.is_empty()),
        Some(other) => Some(other.to_owned()),
    };
    match asked.as_deref() {
        None | Some("grpc") if attaches => Ok(&[Grpc]),
        Some(other @ ("embedded" | "shm")) if attaches => {
            let got = format!("'{other}' together with addresses of workers");
            Err(Error::invalid("bridge", "'grpc'", got).with_stage(Stage::Load))
        }
        None | Some("auto") => Ok(&[Embedded, Shm, Grpc]),
        Some("embedded") => Ok(&[Embedded]),
        Some("shm") => Ok(&[Shm]),
        Some("grpc") => Ok(&[Grpc]),
        Some(other) => Err(Error::invalid("bridge", "'auto', 'embedded', 'shm' or 'grpc'", format_args!("'{other}'"))
            .with_stage(Stage::Load)),
    }
}

fn load_config(options: &LoadOptions, model: ModelSource) -> LoadConfig {
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    LoadConfig {
        model,
        device: options.device.clone(),
        dtype: options.dtype.clone(),
        num_threads: options.threads.torch.unwrap_or(cores),
        limits: LoadLimits {
            max_context: options.limits.max_context,
            max_batch_tokens: options.limits.max_batch_tokens,
            max_running: options.limits.max_running,
            kv_cache_bytes: options.limits.kv_cache_bytes,
        },
    }
}

/// A backend that loads already while the tokenizer, which the engine needs at its start, is still being read.
pub(crate) struct EarlyBackend {
    backend: Box<dyn Backend>,
    relay: Arc<Mutex<Relay>>,
}

enum Relay {
    /// Nobody listens yet.
    Kept(Vec<BackendEvent>),
    To(BackendEvents),
}

impl EarlyBackend {
    /// Starts the backend; its events are kept until the engine asks for them. `bell` is that of the engine to come.
    pub(crate) fn start(mut backend: Box<dyn Backend>, bell: &Bell) -> Result<Self> {
        let relay = Arc::new(Mutex::new(Relay::Kept(Vec::new())));
        let events = Arc::clone(&relay);
        backend.start(bell.tell(BackendEvents::new(move |event| pass(&events, event))))?;
        Ok(Self { backend, relay })
    }
}

fn pass(relay: &Mutex<Relay>, event: BackendEvent) {
    let mut relay = relay.lock().unwrap_or_else(PoisonError::into_inner);
    let to = match &mut *relay {
        Relay::Kept(events) => return events.push(event),
        Relay::To(to) => to.clone(),
    };
    drop(relay);
    to.send(event);
}

impl Backend for EarlyBackend {
    fn start(&mut self, events: BackendEvents) -> Result<()> {
        // Held over the loop, so that no later event overtakes a kept one.
        let mut relay = self.relay.lock().unwrap_or_else(PoisonError::into_inner);
        if let Relay::Kept(kept) = std::mem::replace(&mut *relay, Relay::To(events.clone())) {
            for event in kept {
                events.send(event);
            }
        }
        Ok(())
    }

    fn submit(&mut self, step: &Step) -> Result<()> {
        self.backend.submit(step)
    }

    fn submit_forward(&mut self, batch: &ForwardBatch) -> Result<()> {
        self.backend.submit_forward(batch)
    }

    fn tensor_store(&self) -> Option<Arc<dyn TensorStore>> {
        self.backend.tensor_store()
    }

    fn rung(&mut self, count: u32, take: &mut dyn FnMut(BackendEvent)) {
        self.backend.rung(count, take);
    }

    fn max_in_flight(&self) -> usize {
        self.backend.max_in_flight()
    }

    fn abort(&mut self) {
        self.backend.abort();
    }

    fn close(&mut self, timeout: Duration) {
        self.backend.close(timeout);
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        self.backend.workers()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn bridges_are_chosen_by_name_and_by_what_workers_says() {
        use BridgeKind::{Embedded, Grpc, Shm};
        assert_eq!(bridges(Some("shm"), false).unwrap(), [Shm]);
        assert_eq!(bridges(Some("embedded"), false).unwrap(), [Embedded]);
        assert_eq!(bridges(Some("grpc"), false).unwrap(), [Grpc]);
        assert_eq!(bridges(Some("grpc"), true).unwrap(), [Grpc]);
        assert_eq!(bridges(Some("shm"), true).unwrap_err().param(), Some("bridge"));
        assert_eq!(bridges(Some("pipe"), false).unwrap_err().param(), Some("bridge"));
    }

    fn attaches(json: &str) -> Result<Option<Attach>> {
        attach(&LoadOptions::parse(&format!(r#"{{"model":"m","pythonFolder":"p",{json}}}"#)).unwrap())
    }

    #[test]
    fn workers_are_a_count_or_addresses() {
        let at = |start| Some(Attach { socket: "/run/w".into(), start });
        assert_eq!(attaches(r#""workers":1"#).unwrap(), None);
        assert_eq!(attaches(r#""workers":["unix:/run/w"]"#).unwrap(), at(false));
        assert_eq!(attaches(r#""workers":["unix:/run/w"],"startWorkers":true"#).unwrap(), at(true));
        for (json, code) in [
            (r#""workers":0"#, ErrorCode::InvalidArgument),
            (r#""workers":2"#, ErrorCode::Unsupported),
            (r#""workers":[]"#, ErrorCode::InvalidArgument),
            (r#""workers":["unix:/a","unix:/b"]"#, ErrorCode::Unsupported),
            (r#""workers":["unix:relative"]"#, ErrorCode::InvalidArgument),
            (r#""workers":["tcp:1.2.3.4:5"]"#, ErrorCode::InvalidArgument),
            (r#""startWorkers":true"#, ErrorCode::InvalidArgument),
        ] {
            let error = attaches(json).unwrap_err();
            assert_eq!((error.code(), error.param()), (code, Some("workers")), "{json}: {error}");
        }
    }

    #[test]
    fn what_happens_before_the_engine_listens_is_kept_in_order() {
        let mut early = EarlyBackend::start(Box::new(EchoBackend::new(EchoOptions::default())), &Bell::new()).unwrap();
        let (sender, events) = mpsc::channel();
        early.start(BackendEvents::new(move |event| sender.send(event).unwrap())).unwrap();
        early.close(Duration::ZERO);
        assert!(matches!(events.recv().unwrap(), BackendEvent::Ready(_)));
        assert!(matches!(events.recv().unwrap(), BackendEvent::Closed));
    }
}
