//! A worker around a fake model, driven as the engine would drive it.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use pillion_backend_worker::{RestartOptions, WorkerBackend, WorkerOptions};
use pillion_core::{
    Backend, BackendEvent, BackendEvents, Error, LoadConfig, LoadLimits, LogRecord, ModelSource, WorkerInfo,
    step::{ROW_SAMPLE, Row, Step, StepOutput},
};
use pillion_testkit::conformance::{Bridge, Model, python_path};
use serde_json::{Value, json};

/// Nothing that is waited for here takes so long, on however busy a machine.
pub(crate) const LONG: Duration = Duration::from_secs(120);

const MAX_RECORD_BYTES: usize = 1 << 20;

/// A backend and all that it says.
pub(crate) struct Harness {
    pub(crate) backend: WorkerBackend,
    pub(crate) events: Receiver<BackendEvent>,
    pub(crate) logs: Vec<LogRecord>,
}

/// Options for the fake worker of `tests/fixtures`, whose restarts do not wait.
pub(crate) fn options(entry: &str, model_options: Value) -> WorkerOptions {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python_path = vec![crate_dir.join("../../python"), crate_dir.join("tests/fixtures")];
    let load = LoadConfig {
        model: ModelSource::Class { spec: "fake:fake".to_owned(), options: model_options },
        device: None,
        dtype: None,
        num_threads: 1,
        limits: LoadLimits { max_context: None, max_batch_tokens: 64, max_running: 32, kv_cache_bytes: None },
    };
    let mut options = WorkerOptions::new(python(), python_path, load);
    entry.clone_into(&mut options.entry);
    options.transport = crate::TRANSPORT;
    options.max_record_bytes = MAX_RECORD_BYTES;
    options.env.push(("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned()));
    // Most tests want to see how it ended.
    options.supervise.exit_wait = LONG;
    options.supervise.restart = RestartOptions { backoff_min: Duration::ZERO, ..RestartOptions::default() };
    options
}

/// The fake model with its default behaviour.
pub(crate) fn fake() -> WorkerOptions {
    options("fake_worker", json!({}))
}

/// This transport, for the cases that every bridge passes.
pub(crate) struct Subject(pub(crate) Bridge);

impl pillion_testkit::conformance::Subject for Subject {
    fn bridge(&self) -> Bridge {
        self.0
    }

    fn backend(&self, model: &Model) -> Box<dyn Backend> {
        let mut options = options("pillion._serve", Value::Null);
        options.python_path = python_path();
        options.load = model.load_config();
        Box::new(WorkerBackend::new(options))
    }

    fn max_record_bytes(&self) -> Option<usize> {
        Some(MAX_RECORD_BYTES)
    }
}

/// `npm test` names one that has the packages for gRPC.
pub(crate) fn python() -> PathBuf {
    let named = ["PILLION_TEST_PYTHON", "PILLION_PYTHON"].into_iter().find_map(std::env::var_os);
    named.map_or_else(|| PathBuf::from("python3"), PathBuf::from)
}

impl Harness {
    pub(crate) fn start(options: WorkerOptions) -> Self {
        let (send, events) = mpsc::channel();
        let mut backend = WorkerBackend::new(options);
        // The receiver may have gone when the last events come.
        backend.start(BackendEvents::new(move |event| drop(send.send(event)))).unwrap();
        Self { backend, events, logs: Vec::new() }
    }

    /// A worker that takes steps.
    pub(crate) fn ready(options: WorkerOptions) -> Self {
        let mut harness = Self::start(options);
        harness.expect_ready();
        harness
    }

    /// The next event that is neither a log record nor progress.
    pub(crate) fn next(&mut self) -> BackendEvent {
        let until = Instant::now() + LONG;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left).expect("an event was to come") {
                BackendEvent::Log(record) => self.logs.push(record),
                BackendEvent::Progress(_) => {}
                event => return event,
            }
        }
    }

    pub(crate) fn expect_ready(&mut self) -> WorkerInfo {
        match self.next() {
            BackendEvent::Ready(info) => *info,
            other => panic!("{other:?} in place of ready; log: {:?}", self.logs),
        }
    }

    pub(crate) fn expect_lost(&mut self) -> Error {
        match self.next() {
            BackendEvent::WorkerLost(error) => error,
            other => panic!("{other:?} in place of a lost worker; log: {:?}", self.logs),
        }
    }

    pub(crate) fn expect_load_failed(&mut self) -> Error {
        match self.next() {
            BackendEvent::LoadFailed(error) => error,
            other => panic!("{other:?} in place of a failed load; log: {:?}", self.logs),
        }
    }

    pub(crate) fn expect_step(&mut self) -> StepOutput {
        match self.next() {
            BackendEvent::StepDone(output) => output,
            other => panic!("{other:?} in place of an answer; log: {:?}", self.logs),
        }
    }

    /// A step with an answer, to show that the worker is well.
    pub(crate) fn round_trip(&mut self, id: u64) {
        self.backend.submit(&step(id, &[])).unwrap();
        let output = self.expect_step();
        assert_eq!((output.step_id, output.error.as_ref()), (id, None));
        assert_eq!(output.tokens, [id as u32; 2]);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.backend.workers()[0].pid
    }

    /// Waits for a record whose text has `part` in it.
    pub(crate) fn expect_log(&mut self, part: &str) -> LogRecord {
        let until = Instant::now() + LONG;
        loop {
            if let Some(at) = self.logs.iter().position(|r| r.message.contains(part)) {
                return self.logs.remove(at);
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(BackendEvent::Log(record)) => self.logs.push(record),
                Ok(BackendEvent::Progress(_)) => {}
                other => panic!("{other:?} in place of a record with {part:?}; log: {:?}", self.logs),
            }
        }
    }

    /// Ends it, and shows that nothing comes after `Closed` and that the process has gone.
    pub(crate) fn close(self, timeout: Duration) -> Vec<LogRecord> {
        let pid = self.pid();
        let logs = self.closed_within(timeout);
        assert!(pid == 0 || !is_alive(pid), "the process is still there");
        logs
    }

    /// As `close`, whatever becomes of the process.
    pub(crate) fn backend_closed(self) {
        self.closed_within(LONG);
    }

    fn closed_within(mut self, timeout: Duration) -> Vec<LogRecord> {
        self.backend.close(timeout);
        self.backend.close(timeout);
        match self.next() {
            BackendEvent::Closed => {}
            other => panic!("{other:?} in place of closed"),
        }
        assert_eq!(self.backend.workers()[0].state, "closed");
        drop(self.backend);
        assert!(self.events.recv_timeout(LONG).is_err(), "something came after closed");
        self.logs
    }
}

/// Two rows that want tokens, and what the fake model is to do.
pub(crate) fn step(id: u64, commands: &[u32]) -> Step {
    let row = |slot| Row { slot, start: 4, count: 1, flags: ROW_SAMPLE };
    Step { step_id: id, freed: commands.to_vec(), rows: vec![row(0), row(1)], ..Step::default() }
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Whether there is such a process, other than one that only waits to be waited for.
pub(crate) fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < until, "{what} did not come to be");
        thread::yield_now();
    }
}
