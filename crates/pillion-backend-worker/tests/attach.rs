//! Workers that somebody else started: attached to, left, and attached to again.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests; clippy knows only functions that are marked as such")]

mod common;

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{Harness, LONG, fake, is_alive, python, signal, step, wait_until};
use pillion_backend_worker::{Attach, RestartOptions, Transport, WorkerOptions};
use pillion_core::{
    Backend, BackendEvent, ErrorCode, ModelSource,
    step::{NewSequence, Step},
};
use rustix::process::Signal;
use tempfile::TempDir;

const TRANSPORT: Transport = Transport::Grpc;

/// A worker of nobody's, killed with the test.
struct Standing {
    child: Child,
    socket: PathBuf,
    _folder: TempDir,
}

impl Standing {
    fn start(options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("w/s");
        fs::DirBuilder::new().mode(0o700).create(socket.parent().unwrap()).unwrap();
        let child = Self::spawn(&socket, options);
        let mut standing = Self { child, socket, _folder: folder };
        wait_until("the worker's socket", || {
            let ended = standing.child.try_wait().unwrap();
            assert_eq!(ended, None, "the worker ended; has {} the packages of pillion[grpc]?", python().display());
            std::os::unix::net::UnixStream::connect(&standing.socket).is_ok()
        });
        standing
    }

    fn spawn(socket: &Path, options: &str) -> Child {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = std::env::join_paths([here.join("../../python"), here.join("tests/fixtures")]).unwrap();
        Command::new(python())
            .arg(here.join("tests/fixtures/standing_worker.py"))
            .args([socket.as_os_str(), options.as_ref()])
            .env("PYTHONPATH", path)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn options(&self) -> WorkerOptions {
        attach(&self.socket)
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn attach(socket: &Path) -> WorkerOptions {
    WorkerOptions { attach: Some(Attach { socket: socket.to_owned(), start: false }), ..fake() }
}

/// Leaves the worker, and shows that it stays.
fn leave(h: Harness, pid: u32) {
    h.backend_closed();
    assert!(is_alive(pid), "the worker is somebody else's");
}

#[test]
fn a_worker_is_attached_to_left_and_attached_to_again() {
    let standing = Standing::start("{}");
    for _ in 0..3 {
        let mut h = Harness::start(standing.options());
        let info = h.expect_ready();
        assert_eq!((info.model.name.as_str(), info.pid, h.pid()), ("fake", standing.child.id(), standing.child.id()));
        for id in 1..50 {
            h.round_trip(id);
        }
        h.backend.submit(&step(50, &[])).unwrap();
        h.backend.submit(&step(51, &[])).unwrap();
        h.backend.close(LONG);
        // The steps under way are answered first.
        assert_eq!(h.expect_step().step_id, 50);
        assert_eq!(h.expect_step().step_id, 51);
        leave(h, standing.child.id());
    }
}

#[test]
fn a_second_engine_is_refused_and_the_first_goes_on() {
    let standing = Standing::start("{}");
    let mut first = Harness::ready(standing.options());
    let mut second = Harness::start(standing.options());
    let error = second.expect_load_failed();
    assert_eq!(error.code(), ErrorCode::BridgeUnavailable, "{error}");
    assert!(error.message().contains("driven by another engine"), "{error}");
    second.backend_closed();
    first.round_trip(1);
    leave(first, standing.child.id());
}

#[test]
fn a_worker_that_has_loaded_another_class_is_refused_and_stays() {
    let standing = Standing::start("{}");
    let mut o = standing.options();
    o.load.model = ModelSource::Class { spec: "path/to/file.py:Other".to_owned(), options: serde_json::Value::Null };
    let mut h = Harness::start(o);
    let error = h.expect_load_failed();
    assert_eq!((error.code(), error.param()), (ErrorCode::InvalidArgument, Some("workers")), "{error}");
    assert!(error.message().contains("model is fake, not Other"), "{error}");
    leave(h, standing.child.id());
    let mut h = Harness::ready(standing.options());
    h.round_trip(1);
    leave(h, standing.child.id());
}

#[test]
fn the_protocol_version_before_ones_own_is_spoken_and_no_other() {
    // What the worker speaks, and the engine.
    for (worker, engine) in [("[1, 2]", 1..=1), ("[1, 1]", 1..=2), ("[2, 3]", 1..=2), ("[1, 2]", 2..=3)] {
        let standing = Standing::start(&format!(r#"{{"protocols": {worker}}}"#));
        let mut h = Harness::ready(WorkerOptions { protocols: engine, ..standing.options() });
        h.round_trip(1);
        leave(h, standing.child.id());
    }
    for (worker, engine) in [("[2, 3]", 1..=1), ("[1, 1]", 2..=3)] {
        let standing = Standing::start(&format!(r#"{{"protocols": {worker}}}"#));
        let mut h = Harness::start(WorkerOptions { protocols: engine.clone(), ..standing.options() });
        let error = h.expect_load_failed();
        assert_eq!(error.code(), ErrorCode::VersionMismatch, "{error}");
        let said = format!("speaks versions {} to {} of the worker protocol", engine.start(), engine.end());
        assert!(error.message().contains(&said) && error.remedy().unwrap().contains("update"), "{error}");
        leave(h, standing.child.id());
    }
}

#[test]
fn errors_and_abort_are_as_with_a_worker_of_ones_own() {
    let standing = Standing::start("{}");
    let mut h = Harness::ready(standing.options());
    h.backend.submit(&step(2, &[1])).unwrap();
    assert_eq!(h.expect_step().error.unwrap().code(), ErrorCode::PythonError);
    h.backend.submit(&step(3, &[9])).unwrap();
    h.backend.abort();
    assert_eq!(h.expect_step().step_id, 3);
    leave(h, standing.child.id());
}

#[test]
fn the_slots_of_the_engine_before_are_freed() {
    let mut standing = Standing::start("{}");
    let mut h = Harness::ready(standing.options());
    // To the fake model a freed slot is a command, and this one ends the process.
    h.backend.submit(&enters(15)).unwrap();
    assert_eq!(h.expect_step().step_id, 1);
    leave(h, standing.child.id());
    let mut o = standing.options();
    o.supervise.restart.max_restarts = 0;
    let mut h = Harness::start(o);
    assert_eq!(h.expect_load_failed().code(), ErrorCode::WorkerLost);
    h.backend_closed();
    assert_eq!(standing.child.wait().unwrap().code(), Some(7));
}

/// A step that puts a sequence into a slot.
fn enters(slot: u32) -> Step {
    let new = vec![NewSequence { slot, prompt_len: 1, max_len: 4, ..NewSequence::default() }];
    Step { step_id: 1, new, prompts: vec![4], ..Step::default() }
}

#[test]
fn a_worker_that_dies_is_lost_at_once_and_its_successor_is_found() {
    let mut standing = Standing::start("{}");
    let mut o = standing.options();
    o.supervise.restart = RestartOptions {
        max_restarts: 10_000,
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(20),
        ..RestartOptions::default()
    };
    let mut h = Harness::ready(o);
    h.round_trip(1);
    h.backend.submit(&step(2, &[3])).unwrap();
    standing.kill();
    let error = h.expect_lost();
    assert_eq!((error.code(), error.is_retryable()), (ErrorCode::WorkerLost, true));
    assert_eq!(h.backend.submit(&step(3, &[])).unwrap_err().code(), ErrorCode::WorkerLost);
    standing.child = Standing::spawn(&standing.socket, "{}");
    let info = h.expect_ready();
    assert_eq!(info.pid, standing.child.id());
    h.round_trip(4);
    leave(h, standing.child.id());
}

#[test]
fn an_idle_worker_that_hangs_and_a_step_that_hangs_are_noticed() {
    let standing = Standing::start("{}");
    let mut o = standing.options();
    o.supervise.restart.max_restarts = 0;
    o.supervise.heartbeat = Duration::from_millis(20);
    o.supervise.heartbeat_timeout = Duration::from_secs(3);
    let mut h = Harness::ready(o.clone());
    signal(standing.child.id(), Signal::STOP);
    let error = h.expect_lost();
    assert!(error.message().contains("no sign of life came for 3s"), "{error}");
    h.expect_load_failed();
    h.backend_closed();
    signal(standing.child.id(), Signal::CONT);

    o.supervise.hang_max = Duration::from_secs(2);
    o.supervise.hang_min = Duration::from_secs(2);
    let mut h = Harness::ready(o);
    h.backend.submit(&step(1, &[3])).unwrap();
    let error = h.expect_lost();
    assert!(error.message().contains("step 1 was not answered within 2s"), "{error}");
    h.expect_load_failed();
    h.backend_closed();
}

#[test]
fn what_cannot_be_attached_to_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |socket: &Path, part: &str| {
        let mut h = Harness::start(attach(socket));
        let error = h.expect_load_failed();
        assert_eq!(error.code(), ErrorCode::BridgeUnavailable, "{error}");
        assert!(error.message().contains(part), "{error}");
        h.backend_closed();
        error
    };
    let error = refused(&folder.path().join("nobody"), "no worker can be reached");
    assert!(error.remedy().unwrap().contains("python -m pillion.worker --listen unix:"), "{error}");
    let most = if cfg!(target_os = "linux") { "107 are possible" } else { "103 are possible" };
    refused(&folder.path().join("x".repeat(120)), most);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    refused(&file, "no worker can be reached");
}

#[test]
fn a_load_that_failed_is_told_to_whoever_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("w/s");
    let mut child = Standing::spawn(&socket, r#"{"load": "raise"}"#);
    let mut o = attach(&socket);
    o.supervise.restart.max_restarts = 0;
    // The worker may have ended before it is asked, or while it is, or never have been seen.
    let mut h = Harness::start(o);
    let error = h.expect_load_failed();
    assert!(
        [ErrorCode::PythonError, ErrorCode::BridgeUnavailable, ErrorCode::WorkerLost].contains(&error.code()),
        "{error}"
    );
    h.backend_closed();
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

const SOCKET: &str = "PILLION_TEST_ATTACH_SOCKET";

/// Not a test of its own: the engine's process that is to be killed. It attaches, runs a step that never ends, and waits.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn engine() {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    let socket = PathBuf::from(socket);
    let mut h = Harness::ready(attach(&socket));
    h.backend.submit(&enters(20)).unwrap();
    assert_eq!(h.expect_step().step_id, 1);
    fs::write(socket.with_extension("part"), "").unwrap();
    fs::rename(socket.with_extension("part"), socket.with_extension("steps")).unwrap();
    // The other end is closed when nobody wants this process any more.
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}

#[test]
fn a_worker_outlives_an_engine_that_is_killed_and_takes_the_next_one() {
    let marker = tempfile::tempdir().unwrap();
    // A second load would fail.
    let once = marker.path().join("once");
    let standing = Standing::start(&serde_json::json!({ "once": once }).to_string());
    for _ in 0..3 {
        let done = standing.socket.with_extension("steps");
        let mut engine = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "engine", "--ignored"])
            .env(SOCKET, &standing.socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the engine's word", || done.exists());
        engine.kill().unwrap();
        engine.wait().unwrap();
        fs::remove_file(done).unwrap();
        let mut h = Harness::ready(standing.options());
        assert_eq!(h.pid(), standing.child.id());
        h.round_trip(1);
        leave(h, standing.child.id());
    }
    assert!(once.exists());
}

#[test]
fn one_that_is_not_there_is_started_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("w/s");
    let mut o = attach(&socket);
    o.attach = Some(Attach { socket: socket.clone(), start: true });
    // The real handler does not find the fake model, which shows that what it says comes through; it is also the end of the process.
    let mut h = Harness::start(o.clone());
    let error = h.expect_load_failed();
    let says = |text: &str| text.contains("there is no module fake");
    assert!(says(&error.to_string()) || says(&error.worker().unwrap().stderr_tail), "{error:?}");
    h.backend_closed();
    o.python = "/nowhere/python".into();
    let mut h = Harness::start(o);
    assert_eq!(h.expect_load_failed().code(), ErrorCode::PythonNotFound);
    h.backend_closed();
}

#[test]
fn close_while_it_waits_for_the_weights() {
    let standing = Standing::start(r#"{"load": "hang"}"#);
    let h = Harness::start(standing.options());
    wait_until("the connection", || h.pid() == standing.child.id());
    leave(h, standing.child.id());
}

#[test]
fn a_dropped_backend_leaves_the_worker_to_the_next() {
    let standing = Standing::start("{}");
    drop(Harness::ready(standing.options()));
    let mut h = Harness::ready(standing.options());
    h.round_trip(1);
    match h.events.try_recv() {
        Err(_) | Ok(BackendEvent::Log(_)) => {}
        Ok(other) => panic!("{other:?}"),
    }
    leave(h, standing.child.id());
}
