//! What the tests share: the bridge, a Python package without torch, and a process for each case, since a process has one interpreter.

#![expect(clippy::unwrap_used, reason = "test code, but not inside of test functions")]
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{
        OnceLock,
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use pillion_backend_embedded::{BRIDGE_FILE, EmbeddedBackend, EmbeddedOptions, SurveyOptions, survey};
use pillion_core::{
    Backend, BackendEvent, BackendEvents, Error, LoadConfig, LoadLimits, LogSource, ModelSource, VERSION, WorkerInfo,
    step::{ROW_SAMPLE, Row, Step, StepOutput},
};
use serde_json::{Value, json};

/// Nothing here takes as long; it only keeps a failure from hanging.
const BOUND: Duration = Duration::from_secs(120);
const CHILD: &str = "PILLION_TEST_CHILD";

/// Runs `body` in a process of its own, in which the test's name is run alone.
pub(crate) fn in_own_process(test: &str, body: impl FnOnce()) {
    in_own_process_with(test, &[], body);
}

/// The same with environment variables.
pub(crate) fn in_own_process_with(test: &str, variables: &[(&str, &str)], body: impl FnOnce()) {
    let Some((status, said)) = child(test, variables, body) else { return };
    assert!(status.success() && said.contains("1 passed"), "{said}\nthe child ended with {status}");
}

/// In the parent: how the child ended, and what it wrote. In the child: runs `body`.
pub(crate) fn child(test: &str, variables: &[(&str, &str)], body: impl FnOnce()) -> Option<(ExitStatus, String)> {
    if env::var_os(CHILD).is_some() {
        thread::spawn(|| {
            thread::sleep(2 * BOUND);
            // The parent tells of the signal.
            std::process::abort();
        });
        body();
        return None;
    }
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
        command.env_remove(name);
    }
    command.env(CHILD, "1").env("PILLION_PYTHON", python()).env("PILLION_BRIDGE_LIBRARY", bridge());
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    Some((output.status, String::from_utf8_lossy(&said).into_owned()))
}

/// The interpreter that would be taken for this folder.
pub(crate) fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(find_python).clone()
}

fn find_python() -> PathBuf {
    let reports = survey(&SurveyOptions::default()).candidates;
    let chosen = reports.iter().find(|report| report.chosen);
    let chosen = chosen.unwrap_or_else(|| panic!("these tests need a Python with a shared library: {reports:#?}"));
    chosen.executable.clone().unwrap()
}

/// The bridge, built by cargo if the environment does not name one: no dependency of cargo's leads from this crate to it.
pub(crate) fn bridge() -> PathBuf {
    static BRIDGE: OnceLock<PathBuf> = OnceLock::new();
    BRIDGE.get_or_init(build_bridge).clone()
}

fn build_bridge() -> PathBuf {
    if let Some(path) = env::var_os("PILLION_BRIDGE_LIBRARY") {
        return path.into();
    }
    let executable = env::current_exe().unwrap();
    let profile = executable.parent().and_then(Path::parent).unwrap();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "pillion-bridge", "--target-dir"]).arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(status.success(), "the bridge could not be built: {status}");
    profile.join(BRIDGE_FILE)
}

/// A folder with a package `pillion` in it that keeps the contract of the real one.
pub(crate) fn fake_package(version: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let package = folder.path().join("pillion");
    fs::create_dir(&package).unwrap();
    for (name, source) in [
        ("__init__.py", include_str!("../fake/__init__.py")),
        ("errors.py", include_str!("../fake/errors.py")),
        ("_embedded.py", include_str!("../fake/_embedded.py")),
    ] {
        fs::write(package.join(name), source.replace("@version@", version)).unwrap();
    }
    folder
}

/// A program that answers the probe with `change` laid over what the real interpreter says.
pub(crate) fn pretender(folder: &Path, change: &Value) -> PathBuf {
    let output = Command::new(env::var_os("PILLION_PYTHON").map_or_else(python, PathBuf::from))
        .args(["-I", "-S", "-c", include_str!("../../src/probe.py")])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let mut answer: Value = serde_json::from_str(said.trim().strip_prefix("pillion-probe:").unwrap()).unwrap();
    answer.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    script(folder, &format!("cat <<'END'\npillion-probe:{answer}\nEND"))
}

/// An executable shell script.
pub(crate) fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("python3");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// What goes into a backend for the fake package.
pub(crate) fn options(package: &Path, model_options: Value) -> EmbeddedOptions {
    let limits = LoadLimits { max_context: None, max_batch_tokens: 16, max_running: 2, kv_cache_bytes: None };
    EmbeddedOptions {
        python: None,
        python_path: vec![package.to_owned()],
        load: LoadConfig {
            model: ModelSource::Class { spec: "fake".to_owned(), options: model_options },
            device: None,
            dtype: None,
            num_threads: 3,
            limits,
        },
        bridge_library: None,
    }
}

/// A started backend and what it said.
pub(crate) struct Running {
    pub(crate) backend: EmbeddedBackend,
    pub(crate) events: Receiver<BackendEvent>,
    /// Lines from Python, as far as events were read.
    pub(crate) lines: Vec<String>,
    /// Progress as far as events were read.
    pub(crate) stages: Vec<String>,
    package: tempfile::TempDir,
}

impl Running {
    /// A backend with the fake package and these options of the model.
    pub(crate) fn start(model_options: Value) -> Self {
        Self::start_with(model_options, |_| {})
    }

    /// The same, its options changed.
    pub(crate) fn start_with(model_options: Value, change: impl FnOnce(&mut EmbeddedOptions)) -> Self {
        let package = fake_package(VERSION);
        let mut options = options(package.path(), model_options);
        change(&mut options);
        let mut backend = EmbeddedBackend::new(options);
        let (send, events) = channel();
        let sink = BackendEvents::new(move |event| {
            let _ = send.send(event);
        });
        backend.start(sink).unwrap();
        Self { backend, events, lines: Vec::new(), stages: Vec::new(), package }
    }

    /// The next event that is neither progress nor a log line.
    pub(crate) fn next(&mut self) -> BackendEvent {
        loop {
            match self.events.recv_timeout(BOUND).expect("an event") {
                BackendEvent::Log(record) if record.source == LogSource::Python => self.lines.push(record.message),
                BackendEvent::Log(_) => {}
                BackendEvent::Progress(progress) => self.stages.push(format!("{} {}", progress.stage, progress.done)),
                event => return event,
            }
        }
    }

    /// Waits until Python has said `line`.
    pub(crate) fn wait_for_line(&mut self, line: &str) {
        while !self.lines.iter().any(|l| l == line) {
            match self.events.recv_timeout(BOUND).expect("a line") {
                BackendEvent::Log(record) => self.lines.push(record.message),
                BackendEvent::Progress(_) => {}
                other => panic!("{other:?} before {line}"),
            }
        }
    }

    pub(crate) fn ready(&mut self) -> Box<WorkerInfo> {
        match self.next() {
            BackendEvent::Ready(info) => info,
            other => panic!("not ready: {other:#?}"),
        }
    }

    pub(crate) fn load_failed(&mut self) -> Error {
        match self.next() {
            BackendEvent::LoadFailed(error) => error,
            other => panic!("not failed: {other:#?}"),
        }
    }

    pub(crate) fn submit(&mut self, step_id: u64) {
        self.backend.submit(&step(step_id)).unwrap();
    }

    pub(crate) fn step_done(&mut self) -> StepOutput {
        match self.next() {
            BackendEvent::StepDone(output) => output,
            other => panic!("no step: {other:#?}"),
        }
    }

    /// Runs a step that works, and checks what comes back.
    pub(crate) fn check_step(&mut self, step_id: u64) {
        self.submit(step_id);
        let output = self.step_done();
        let expected = StepOutput { step_id, forward_ns: 5, tokens: vec![101, 100], ..StepOutput::default() };
        assert_eq!(output, expected);
    }

    /// Runs a step that fails.
    pub(crate) fn failed_step(&mut self, step_id: u64) -> Error {
        self.submit(step_id);
        let output = self.step_done();
        assert_eq!(output.step_id, step_id);
        output.error.expect("an error")
    }

    /// What the fake package says of its interpreter when it has loaded.
    pub(crate) fn facts(&self) -> Value {
        let line = self.lines.iter().find_map(|line| line.strip_prefix("facts:"));
        serde_json::from_str(line.expect("facts")).unwrap()
    }

    pub(crate) fn close(&mut self) {
        self.backend.close(BOUND);
        assert!(matches!(self.next(), BackendEvent::Closed));
        assert_eq!(self.state(), "closed");
    }

    pub(crate) fn state(&self) -> String {
        self.backend.workers()[0].state.clone()
    }

    pub(crate) fn package(&self) -> &Path {
        self.package.path()
    }
}

/// Two rows of slots 1 and 0, which the fake answers with 101 and 100.
pub(crate) fn step(step_id: u64) -> Step {
    let row = |slot| Row { slot, start: 0, count: 1, flags: ROW_SAMPLE };
    Step { step_id, rows: vec![row(1), row(0)], ..Step::default() }
}

/// A pipe in the file system: who opens it to read waits for one who opens it to write.
pub(crate) fn fifo(folder: &Path) -> PathBuf {
    let path = folder.join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// No options of the model.
pub(crate) fn plain() -> Value {
    json!({})
}
