//! `bridge: 'auto'`: the next way to Python when one cannot be used here, and the reason kept for `status()`.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use pillion_core::{
    Backend, BackendEvent, BackendEvents, BridgeKind, Error, ErrorCode, LogLevel, LogRecord, LogSource, Result,
    WorkerStatus,
    forward::{ForwardBatch, TensorStore},
    step::Step,
};
use pillion_engine::Fallback;

/// The way in use, and those that were tried first.
#[derive(Debug)]
pub(crate) struct BridgeChoice(Mutex<(BridgeKind, Vec<Fallback>)>);

impl BridgeChoice {
    pub(crate) fn new(bridge: BridgeKind) -> Self {
        Self(Mutex::new((bridge, Vec::new())))
    }

    pub(crate) fn now(&self) -> (BridgeKind, Vec<Fallback>) {
        lock(&self.0).clone()
    }
}

/// A way that may be tried.
pub(crate) struct Candidate {
    pub(crate) bridge: BridgeKind,
    pub(crate) make: Box<dyn FnOnce() -> Result<Box<dyn Backend>> + Send>,
}

/// The first of several backends that can be used here. What fails for another reason than the way itself has failed.
pub(crate) struct FallbackBackend(Arc<Shared>);

struct Shared {
    events: OnceLock<BackendEvents>,
    choice: Arc<BridgeChoice>,
    state: Mutex<State>,
    /// Which attempt is heard. No lock: backends speak from within our calls.
    attempt: AtomicUsize,
    num_left: AtomicUsize,
    is_ready: AtomicBool,
}

struct State {
    current: Option<Box<dyn Backend>>,
    left: VecDeque<Candidate>,
    /// Told if no way can be used: its remedy is that of the way which is best.
    first_error: Option<Error>,
    closing: bool,
}

impl FallbackBackend {
    pub(crate) fn new(candidates: Vec<Candidate>, choice: Arc<BridgeChoice>) -> Self {
        let num_left = AtomicUsize::new(candidates.len());
        let state = State { current: None, left: candidates.into(), first_error: None, closing: false };
        Self(Arc::new(Shared {
            events: OnceLock::new(),
            choice,
            state: Mutex::new(state),
            attempt: AtomicUsize::new(0),
            num_left,
            is_ready: AtomicBool::new(false),
        }))
    }
}

impl Shared {
    /// Starts the next way that can be started.
    fn advance(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        if let Some(mut old) = state.current.take() {
            old.close(Duration::ZERO);
        }
        loop {
            if state.closing {
                return self.send(BackendEvent::Closed);
            }
            let Some(candidate) = state.left.pop_front() else {
                let error = state.first_error.take();
                return self.send(BackendEvent::LoadFailed(
                    error.unwrap_or_else(|| Error::internal("there is no way to Python to choose from")),
                ));
            };
            self.num_left.store(state.left.len(), Ordering::Release);
            let attempt = self.attempt.fetch_add(1, Ordering::AcqRel) + 1;
            lock(&self.choice.0).0 = candidate.bridge;
            let weak = Arc::downgrade(self);
            let hear = move |event| heard(&weak, attempt, event);
            let events = match self.events.get() {
                Some(events) => events.wrap(hear),
                None => BackendEvents::new(hear),
            };
            let started = (candidate.make)().and_then(|mut backend| {
                backend.start(events)?;
                Ok(backend)
            });
            match started {
                Ok(backend) => {
                    state.current = Some(backend);
                    return;
                }
                Err(error) if concerns_the_way(&error) || state.first_error.is_some() => self.note(&mut state, error),
                Err(error) => return self.send(BackendEvent::LoadFailed(error)),
            }
        }
    }

    /// Keeps the reason for `status()`, and tells the log.
    fn note(&self, state: &mut State, error: Error) {
        let bridge = lock(&self.choice.0).0;
        let reason = error.message().to_owned();
        let message = format!("the {} bridge cannot be used: {reason}", name(bridge));
        self.send(BackendEvent::Log(LogRecord {
            level: LogLevel::Warn,
            source: LogSource::Rust,
            message,
            request_id: None,
        }));
        lock(&self.choice.0).1.push(Fallback { bridge, code: error.code(), reason });
        state.first_error.get_or_insert(error);
    }

    fn send(&self, event: BackendEvent) {
        if let Some(events) = self.events.get() {
            events.send(event);
        }
    }
}

/// What an attempt says. After the next has begun nobody listens to it.
fn heard(shared: &Weak<Shared>, attempt: usize, event: BackendEvent) {
    let Some(shared) = shared.upgrade() else { return };
    if shared.attempt.load(Ordering::Acquire) != attempt {
        return;
    }
    match event {
        BackendEvent::LoadFailed(error)
            if concerns_the_way(&error)
                && !shared.is_ready.load(Ordering::Acquire)
                && shared.num_left.load(Ordering::Acquire) > 0 =>
        {
            // On a thread of its own: the backend is in the middle of something, and what follows ends it.
            let next = Arc::clone(&shared);
            let spawned = thread::Builder::new().name("pillion-fallback".to_owned()).spawn(move || {
                next.note(&mut lock(&next.state), error);
                next.advance();
            });
            if let Err(e) = spawned {
                let message = "the thread that tries the next bridge could not be started";
                shared.send(BackendEvent::LoadFailed(Error::new(ErrorCode::OutOfMemory, message).with_cause(e)));
            }
        }
        event => {
            if matches!(event, BackendEvent::Ready(_)) {
                shared.is_ready.store(true, Ordering::Release);
            }
            shared.send(event);
        }
    }
}

/// Whether another way may do better with the same interpreter and model.
fn concerns_the_way(error: &Error) -> bool {
    matches!(
        error.code(),
        ErrorCode::BridgeUnavailable | ErrorCode::PythonLibraryMissing | ErrorCode::PythonUnsupported
    )
}

pub(crate) fn name(bridge: BridgeKind) -> &'static str {
    match bridge {
        BridgeKind::Embedded => "embedded",
        BridgeKind::Shm => "shm",
        BridgeKind::Grpc => "grpc",
    }
}

impl Backend for FallbackBackend {
    fn start(&mut self, events: BackendEvents) -> Result<()> {
        if self.0.events.set(events).is_err() {
            return Err(Error::internal("the backend was started twice"));
        }
        self.0.advance();
        Ok(())
    }

    fn submit(&mut self, step: &Step) -> Result<()> {
        match &mut lock(&self.0.state).current {
            Some(backend) => backend.submit(step),
            None => Err(Error::new(ErrorCode::WorkerLost, "there is no worker at this moment")),
        }
    }

    fn submit_forward(&mut self, batch: &ForwardBatch) -> Result<()> {
        match &mut lock(&self.0.state).current {
            Some(backend) => backend.submit_forward(batch),
            None => Err(Error::new(ErrorCode::WorkerLost, "there is no worker at this moment")),
        }
    }

    fn tensor_store(&self) -> Option<Arc<dyn TensorStore>> {
        lock(&self.0.state).current.as_ref().and_then(|backend| backend.tensor_store())
    }

    fn rung(&mut self, count: u32, take: &mut dyn FnMut(BackendEvent)) {
        if let Some(backend) = &mut lock(&self.0.state).current {
            backend.rung(count, take);
        }
    }

    fn max_in_flight(&self) -> usize {
        lock(&self.0.state).current.as_ref().map_or(1, |backend| backend.max_in_flight())
    }

    fn abort(&mut self) {
        if let Some(backend) = &mut lock(&self.0.state).current {
            backend.abort();
        }
    }

    fn close(&mut self, timeout: Duration) {
        let mut state = lock(&self.0.state);
        state.closing = true;
        match &mut state.current {
            Some(backend) => backend.close(timeout),
            // Nothing is left to be closed; calling it twice is fine.
            None => self.0.send(BackendEvent::Closed),
        }
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        lock(&self.0.state).current.as_ref().map(|backend| backend.workers()).unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver};

    use pillion_backend_echo::{EchoBackend, EchoOptions};

    use super::*;

    /// A backend that cannot be loaded, or cannot even be started.
    struct Refuses {
        error: Error,
        at_start: bool,
    }

    impl Backend for Refuses {
        fn start(&mut self, events: BackendEvents) -> Result<()> {
            if self.at_start {
                return Err(self.error.clone());
            }
            events.send(BackendEvent::LoadFailed(self.error.clone()));
            Ok(())
        }
        fn submit(&mut self, _: &Step) -> Result<()> {
            Err(self.error.clone())
        }
        fn max_in_flight(&self) -> usize {
            1
        }
        fn abort(&mut self) {}
        fn close(&mut self, _: Duration) {}
        fn workers(&self) -> Vec<WorkerStatus> {
            Vec::new()
        }
    }

    fn refuses(bridge: BridgeKind, code: ErrorCode, at_start: bool) -> Candidate {
        let error = Error::new(code, format!("no {}", name(bridge)));
        Candidate { bridge, make: Box::new(move || Ok(Box::new(Refuses { error, at_start }))) }
    }

    fn echo(bridge: BridgeKind) -> Candidate {
        Candidate { bridge, make: Box::new(|| Ok(Box::new(EchoBackend::new(EchoOptions::default())))) }
    }

    fn start(candidates: Vec<Candidate>) -> (FallbackBackend, Arc<BridgeChoice>, Receiver<BackendEvent>) {
        let choice = Arc::new(BridgeChoice::new(BridgeKind::Embedded));
        let mut backend = FallbackBackend::new(candidates, Arc::clone(&choice));
        let (sender, events) = mpsc::channel();
        backend.start(BackendEvents::new(move |event| drop(sender.send(event)))).unwrap();
        (backend, choice, events)
    }

    #[test]
    fn the_first_way_that_works_is_taken_and_the_reasons_are_kept() {
        use BridgeKind::{Embedded, Grpc, Shm};
        let (mut backend, choice, events) = start(vec![
            refuses(Embedded, ErrorCode::PythonLibraryMissing, false),
            refuses(Shm, ErrorCode::BridgeUnavailable, true),
            echo(Grpc),
        ]);
        for part in ["embedded bridge cannot be used: no embedded", "shm bridge cannot be used: no shm"] {
            assert!(matches!(events.recv().unwrap(), BackendEvent::Log(r) if r.message.contains(part)), "{part}");
        }
        assert!(matches!(events.recv().unwrap(), BackendEvent::Ready(_)));
        let (bridge, fallbacks) = choice.now();
        assert_eq!(bridge, Grpc);
        let reasons: Vec<_> = fallbacks.iter().map(|f| (f.bridge, f.code)).collect();
        assert_eq!(reasons, [(Embedded, ErrorCode::PythonLibraryMissing), (Shm, ErrorCode::BridgeUnavailable)]);
        backend.close(Duration::ZERO);
        assert!(matches!(events.recv().unwrap(), BackendEvent::Closed));
    }

    #[test]
    fn a_model_that_does_not_load_is_not_tried_elsewhere() {
        let (_backend, choice, events) =
            start(vec![refuses(BridgeKind::Embedded, ErrorCode::ModelLoadFailed, false), echo(BridgeKind::Shm)]);
        assert!(
            matches!(events.recv().unwrap(), BackendEvent::LoadFailed(e) if e.code() == ErrorCode::ModelLoadFailed)
        );
        assert_eq!(choice.now().1, []);
    }

    #[test]
    fn if_no_way_works_the_first_ones_reason_is_told() {
        let (mut backend, choice, events) = start(vec![
            refuses(BridgeKind::Embedded, ErrorCode::PythonLibraryMissing, false),
            refuses(BridgeKind::Shm, ErrorCode::PythonPackageMissing, true),
        ]);
        let error = loop {
            match events.recv().unwrap() {
                BackendEvent::LoadFailed(error) => break error,
                BackendEvent::Log(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(error.message(), "no embedded");
        assert_eq!(choice.now().1.len(), 2);
        backend.close(Duration::ZERO);
        assert!(matches!(events.recv().unwrap(), BackendEvent::Closed));
    }
}
