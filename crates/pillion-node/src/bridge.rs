//! Picks the way to a model: the one place in the addon that names a backend.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use pillion_backend_echo::{EchoBackend, EchoOptions};
use pillion_backend_embedded::{EmbeddedBackend, EmbeddedOptions, SurveyOptions, survey};
use pillion_backend_worker::{WorkerBackend, WorkerOptions};
use pillion_core::{
    Backend, BackendEvent, BackendEvents, BridgeKind, Error, ErrorCode, LoadConfig, LoadLimits, ModelSource, Result,
    Stage, WorkerStatus, forward::ForwardBatch, step::Step,
};

use crate::{
    exit,
    load::{LoadOptions, Model},
};

/// Overrides `bridge: 'auto'`.
const BRIDGE_VARIABLE: &str = "PILLION_BRIDGE";

/// A backend that is chosen, and how `status()` calls the way to it.
pub(crate) struct Chosen {
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) bridge: Option<BridgeKind>,
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
    let bridge = bridge_kind(options.bridge.as_deref())?;
    let (python_path, load) = (vec![options.python_folder.clone()], load_config(options, source));
    let backend: Box<dyn Backend> = if bridge == BridgeKind::Shm {
        let python = worker_python(options.python.as_deref())?;
        Box::new(WorkerBackend::new(WorkerOptions::new(python, python_path, load)))
    } else {
        exit::python_may_start();
        Box::new(EmbeddedBackend::new(EmbeddedOptions {
            python: options.python.clone(),
            python_path,
            load,
            bridge_library: None,
        }))
    };
    Ok(Chosen { backend, bridge: Some(bridge) })
}

/// The interpreter for a process of its own. It is looked for as for the embedded bridge, but needs no shared libpython.
fn worker_python(option: Option<&str>) -> Result<PathBuf> {
    let reports = survey(&SurveyOptions { python: option.map(str::to_owned), packages: Vec::new() });
    let mut problem = None;
    for report in reports {
        match (report.problem, report.executable) {
            (None, Some(executable)) => return Ok(executable),
            (Some(e), Some(executable)) if e.code() == ErrorCode::PythonLibraryMissing => return Ok(executable),
            (e, _) => {
                problem = problem.or(e);
                // One that the user named is not replaced by another.
                if report.source.is_explicit() {
                    break;
                }
            }
        }
    }
    Err(problem.unwrap_or_else(|| {
        Error::new(ErrorCode::PythonNotFound, "no Python interpreter was found")
            .with_remedy("run `npx pillion setup`, or name an interpreter in the option python")
    }))
}

fn bridge_kind(option: Option<&str>) -> Result<BridgeKind> {
    let asked = match option {
        None | Some("auto") => std::env::var(BRIDGE_VARIABLE).ok().filter(|value| !value.is_empty()),
        Some(other) => Some(other.to_owned()),
    };
    match asked.as_deref() {
        None | Some("auto" | "embedded") => Ok(BridgeKind::Embedded),
        Some("shm") => Ok(BridgeKind::Shm),
        Some("grpc") => Err(Error::new(ErrorCode::BridgeUnavailable, "the bridge 'grpc' is not part of this version")
            .with_stage(Stage::Load)
            .with_param("bridge")
            .with_remedy("use bridge: 'embedded' or 'shm', or leave the option out")),
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
    /// Starts the backend; its events are kept until the engine asks for them.
    pub(crate) fn start(mut backend: Box<dyn Backend>) -> Result<Self> {
        let relay = Arc::new(Mutex::new(Relay::Kept(Vec::new())));
        let events = Arc::clone(&relay);
        backend.start(BackendEvents::new(move |event| pass(&events, event)))?;
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
    fn bridges_that_are_not_there_are_refused_by_name() {
        let error = bridge_kind(Some("grpc")).unwrap_err();
        assert!(error.code() == ErrorCode::BridgeUnavailable && error.message().contains("grpc"));
        assert_eq!(bridge_kind(Some("shm")).unwrap(), BridgeKind::Shm);
        assert_eq!(bridge_kind(Some("embedded")).unwrap(), BridgeKind::Embedded);
        assert_eq!(bridge_kind(Some("pipe")).unwrap_err().param(), Some("bridge"));
    }

    #[test]
    fn what_happens_before_the_engine_listens_is_kept_in_order() {
        let mut early = EarlyBackend::start(Box::new(EchoBackend::new(EchoOptions::default()))).unwrap();
        let (sender, events) = mpsc::channel();
        early.start(BackendEvents::new(move |event| sender.send(event).unwrap())).unwrap();
        early.close(Duration::ZERO);
        assert!(matches!(events.recv().unwrap(), BackendEvent::Ready(_)));
        assert!(matches!(events.recv().unwrap(), BackendEvent::Closed));
    }
}
