//! A backend driven as the engine drives it, without an engine.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use pillion_backend_embedded::{EmbeddedBackend, EmbeddedOptions};
use pillion_backend_worker::{RestartOptions, Transport, WorkerBackend, WorkerOptions};
use pillion_core::{
    Backend, BackendEvent, BackendEvents, Error, LoadConfig, LoadLimits, LogLevel, ModelSource, Result,
    forward::{ForwardBatch, ForwardOutput},
    step::{ROW_SAMPLE, Row, Step, StepOutput},
};
use serde_json::Value;

/// Rows of a step.
pub const ROWS: u32 = 32;

/// The ways to Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bridge {
    /// In this process.
    Embedded,
    /// A worker over shared memory.
    Shm,
    /// A worker over gRPC.
    Grpc,
}

impl Bridge {
    /// All, in the order of the tables.
    pub const ALL: [Self; 3] = [Self::Embedded, Self::Shm, Self::Grpc];

    /// The name in options and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Shm => "shm",
            Self::Grpc => "grpc",
        }
    }

    /// The bridge of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bridge| bridge.name() == name)
    }
}

/// What is measured with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The interpreter.
    pub python: PathBuf,
    /// The repository.
    pub root: PathBuf,
    /// The bridge's library.
    pub library: PathBuf,
    /// What the stub finds in its options.
    pub stub: Value,
}

impl Setup {
    /// From the JSON that `bench.mts` gives.
    pub fn parse(json: &Value) -> Result<Self> {
        let path = |name: &str| {
            let text = json[name].as_str();
            text.map(PathBuf::from).ok_or_else(|| Error::invalid(name, "a path", &json[name]))
        };
        Ok(Self { python: path("python")?, root: path("root")?, library: path("library")?, stub: json["stub"].clone() })
    }

    /// The stub of `stub.py`.
    pub fn stub_model(&self) -> ModelSource {
        let file = self.root.join("benchmark/bridge/stub.py");
        ModelSource::Class { spec: format!("{}:Stub", file.display()), options: self.stub.clone() }
    }

    /// A backend that nobody has started yet.
    pub fn backend(&self, bridge: Bridge, model: ModelSource) -> Box<dyn Backend> {
        let limits = LoadLimits { max_context: None, max_batch_tokens: 4096, max_running: 64, kv_cache_bytes: None };
        let load = LoadConfig { model, device: None, dtype: Some("float32".to_owned()), num_threads: cores(), limits };
        let python_path = vec![self.root.join("python")];
        let transport = match bridge {
            Bridge::Embedded => {
                return Box::new(EmbeddedBackend::new(EmbeddedOptions {
                    python: self.python.to_str().map(str::to_owned),
                    python_path,
                    load,
                    bridge_library: Some(self.library.clone()),
                }));
            }
            Bridge::Shm => Transport::Shm,
            Bridge::Grpc => Transport::Grpc,
        };
        let mut options = WorkerOptions::new(self.python.clone(), python_path, load);
        options.transport = transport;
        options.env.push(("PILLION_BRIDGE_LIBRARY".to_owned(), self.library.display().to_string()));
        // A worker is killed again and again here, and that is no reason to give up.
        options.supervise.restart =
            RestartOptions { max_restarts: u32::MAX, backoff_min: Duration::ZERO, ..RestartOptions::default() };
        Box::new(WorkerBackend::new(options))
    }
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// What a backend says, on its way to the thread that waits for it, at a bell as that of the engine (`pillion_engine::Bell`).
struct Inbox {
    events: Mutex<VecDeque<BackendEvent>>,
    bell: Arc<OwnedFd>,
    sleeps: AtomicBool,
    /// Whether another process ended the last sleep.
    is_rung: AtomicBool,
}

/// What a wake-up of this process adds to the bell; the answers of another one are counted below it.
const WAKE: u64 = 1 << 32;

impl Inbox {
    fn new() -> Result<Self> {
        let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC);
        let bell = bell.map_err(|e| Error::internal(format!("an eventfd: {e}")))?;
        Ok(Self {
            events: Mutex::default(),
            bell: Arc::new(bell),
            sleeps: AtomicBool::new(false),
            is_rung: AtomicBool::new(false),
        })
    }

    fn put(&self, event: BackendEvent) {
        self.lock().push_back(event);
        if self.sleeps.swap(false, Ordering::SeqCst) {
            let _ = rustix::io::write(&self.bell, &WAKE.to_ne_bytes());
        }
    }

    /// Every end that a backend can come to is an event too, so this has none of its own: a timer would be part of each step.
    fn take(&self, backend: &mut dyn Backend) -> BackendEvent {
        loop {
            if let Some(event) = self.pop() {
                return event;
            }
            if !self.is_rung.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            self.sleeps.store(true, Ordering::SeqCst);
            if let Some(event) = self.pop() {
                self.sleeps.store(false, Ordering::SeqCst);
                return event;
            }
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.bell, &mut count);
            self.sleeps.store(false, Ordering::SeqCst);
            let rung = (u64::from_ne_bytes(count) % WAKE) as u32;
            self.is_rung.store(rung > 0, Ordering::Relaxed);
            if rung > 0 {
                backend.rung(rung, &mut |event| self.lock().push_back(event));
            }
        }
    }

    fn pop(&self) -> Option<BackendEvent> {
        self.lock().pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<BackendEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The times of so many wake-ups of another thread and back: the part of a round trip that is the system's.
pub fn time_wake_ups(calls: usize) -> Vec<Duration> {
    let turn = Arc::new(AtomicBool::new(false));
    let (ours, other_turn) = (thread::current(), Arc::clone(&turn));
    let other = thread::spawn(move || {
        for _ in 0..calls {
            wait_for(&other_turn, true);
            other_turn.store(false, Ordering::Release);
            ours.unpark();
        }
    });
    let wake = |_| {
        let begin = Instant::now();
        turn.store(true, Ordering::Release);
        other.thread().unpark();
        wait_for(&turn, false);
        begin.elapsed()
    };
    let times = (0..calls).map(wake).collect();
    // It has done its part, or has panicked, and then nothing waits for it.
    let _ = other.join();
    times
}

fn wait_for(turn: &AtomicBool, wanted: bool) {
    while turn.load(Ordering::Acquire) != wanted {
        thread::park();
    }
}

/// A backend that is ready, and what it says, to the thread that opened it.
pub struct Driver {
    pub backend: Box<dyn Backend>,
    inbox: Arc<Inbox>,
    /// The worker's process.
    pub pid: u32,
}

impl Driver {
    /// Waits until it is ready.
    pub fn open(setup: &Setup, bridge: Bridge) -> Result<Self> {
        let inbox = Arc::new(Inbox::new()?);
        let mut backend = setup.backend(bridge, setup.stub_model());
        let into = Arc::clone(&inbox);
        let events = BackendEvents::new(move |event| into.put(event)).awaited();
        backend.start(events.with_bell(Some(Arc::clone(&inbox.bell))))?;
        let mut driver = Self { backend, inbox, pid: 0 };
        match driver.next()? {
            BackendEvent::Ready(info) => driver.pid = info.pid,
            other => return Err(unexpected(&other)),
        }
        Ok(driver)
    }

    fn next(&mut self) -> Result<BackendEvent> {
        loop {
            match self.inbox.take(self.backend.as_mut()) {
                BackendEvent::Progress(_) => {}
                BackendEvent::Log(record) if record.level >= LogLevel::Warn => eprintln!("{}", record.message),
                BackendEvent::Log(_) => {}
                BackendEvent::LoadFailed(error) | BackendEvent::WorkerLost(error) => return Err(error),
                event => return Ok(event),
            }
        }
    }

    /// The answer to the oldest step.
    pub fn answer(&mut self) -> Result<StepOutput> {
        match self.next()? {
            BackendEvent::StepDone(StepOutput { error: Some(error), .. }) => Err(error),
            BackendEvent::StepDone(output) => Ok(output),
            other => Err(unexpected(&other)),
        }
    }

    /// Submits and waits.
    pub fn step(&mut self, step: &Step) -> Result<StepOutput> {
        self.backend.submit(step)?;
        self.answer()
    }

    /// Submits and waits.
    pub fn forward(&mut self, batch: &ForwardBatch) -> Result<ForwardOutput> {
        self.backend.submit_forward(batch)?;
        match self.next()? {
            BackendEvent::ForwardDone(ForwardOutput { error: Some(error), .. }) => Err(error),
            BackendEvent::ForwardDone(output) => Ok(output),
            other => Err(unexpected(&other)),
        }
    }

    /// The times of so many steps, one after the other.
    pub fn time_steps(&mut self, calls: usize) -> Result<Vec<Duration>> {
        let mut step = decode_step();
        let mut times = Vec::with_capacity(calls);
        for _ in 0..calls {
            step.step_id += 1;
            let begin = Instant::now();
            let output = self.step(&step)?;
            times.push(begin.elapsed());
            check(&step, &output)?;
        }
        Ok(times)
    }

    /// Ends it and waits for that.
    pub fn close(mut self) -> Result<()> {
        self.backend.close(Duration::from_secs(10));
        while !matches!(self.next()?, BackendEvent::Closed) {}
        Ok(())
    }
}

/// A step in which 32 sequences go on by a token.
pub fn decode_step() -> Step {
    let row = |slot| Row { slot, start: 100, count: 1, flags: ROW_SAMPLE };
    Step { rows: (0..ROWS).map(row).collect(), ..Step::default() }
}

/// The stub answers with the slots.
pub fn check(step: &Step, output: &StepOutput) -> Result<()> {
    let wanted = step.rows.iter().map(|row| row.slot);
    if output.step_id == step.step_id && output.tokens.iter().copied().eq(wanted) {
        return Ok(());
    }
    Err(Error::internal(format!("a wrong answer: {output:?}")))
}

/// Bytes of memory that a process has, 0 if it has gone.
pub fn resident_bytes(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("statm")).unwrap_or_default();
    let pages: Option<u64> = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn unexpected(event: &BackendEvent) -> Error {
    Error::internal(format!("unexpected: {event:?}"))
}
