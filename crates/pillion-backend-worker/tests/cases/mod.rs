//! The worker backend with a real process behind it, whose model is a fake: what both transports do beyond what all bridges do, which
//! `pillion_testkit::conformance` shows.

use std::time::Duration;

use crate::common::{Harness, LONG, fake, is_alive, options, signal, step, wait_until};
use pillion_backend_worker::RestartOptions;
use pillion_core::{Backend, BackendEvent, ErrorCode, LogLevel, LogSource};
use rustix::process::Signal;
use serde_json::json;

#[test]
fn an_answer_that_is_too_large_is_the_steps_error() {
    let mut h = Harness::ready(fake());
    h.backend.submit(&step(3, &[6])).unwrap();
    let error = h.expect_step().error.expect("it does not fit");
    assert_eq!(error.code(), ErrorCode::Unsupported);
    h.round_trip(4);
    h.close(LONG);
}

#[test]
fn garbage_on_stdout_is_logged_and_nothing_else() {
    let mut h = Harness::ready(fake());
    h.backend.submit(&step(1, &[7])).unwrap();
    assert_eq!(h.expect_step().error, None);
    let stdout = h.expect_log("garbage on stdout");
    assert_eq!((stdout.level, stdout.source), (LogLevel::Info, LogSource::Python));
    h.round_trip(2);
    h.close(LONG);
}

/// By the page of life, which is Linux's own.
#[cfg(all(target_os = "linux", not(feature = "portable")))]
#[test]
fn a_large_worker_is_lost_before_its_end_is_complete() {
    let mut o = fake();
    // Less than its end takes, but more than nothing, so that it has to be waited for.
    o.supervise.exit_wait = Duration::from_micros(1);
    let mut h = Harness::ready(o);
    h.backend.submit(&step(1, &[16])).unwrap();
    assert_eq!(h.expect_step().error, None);
    h.backend.submit(&step(2, &[3])).unwrap();
    let pid = h.pid();
    signal(pid, Signal::KILL);
    let error = h.expect_lost();
    let exit = error.worker().unwrap();
    assert_eq!((exit.exit_signal.as_deref(), exit.exit_code), (None, None), "{error}");
    assert_eq!(h.backend.submit(&step(3, &[])).unwrap_err().code(), ErrorCode::WorkerLost);
    h.expect_ready();
    assert!(!is_alive(pid), "the next one is not started before");
    assert_eq!(h.expect_log("the worker ended: SIGKILL").level, LogLevel::Warn);
    h.round_trip(4);
    h.close(LONG);
}

#[test]
fn a_hung_step_is_cut_off() {
    let mut o = fake();
    o.supervise.hang_max = Duration::from_secs(3);
    o.supervise.hang_min = Duration::from_secs(3);
    let mut h = Harness::ready(o);
    h.round_trip(1);
    h.backend.submit(&step(2, &[3])).unwrap();
    let error = h.expect_lost();
    assert!(error.message().contains("step 2 was not answered within 3s"), "{error}");
    h.expect_ready();
    h.round_trip(3);
    h.close(LONG);
}

#[test]
fn a_frozen_worker_is_replaced_though_it_has_nothing_to_do() {
    let mut o = fake();
    o.supervise.heartbeat = Duration::from_millis(20);
    o.supervise.heartbeat_timeout = Duration::from_secs(4);
    let mut h = Harness::ready(o);
    signal(h.pid(), Signal::STOP);
    let error = h.expect_lost();
    assert!(error.message().contains("no sign of life"), "{error}");
    h.expect_ready();
    h.round_trip(1);
    h.close(LONG);
}

#[test]
fn an_answer_that_cannot_be_ends_the_worker() {
    for (command, part) in [(4, "answered step 3 in place of step 2"), (5, "a step record cannot be read")] {
        let mut h = Harness::ready(fake());
        h.round_trip(1);
        h.backend.submit(&step(2, &[command])).unwrap();
        let error = h.expect_lost();
        assert_eq!(error.code(), ErrorCode::WorkerLost);
        assert!(error.message().contains(part), "{error}");
        h.expect_ready();
        h.round_trip(3);
        h.close(LONG);
    }
}

#[test]
fn a_load_that_fails_tells_how_its_process_ended() {
    let fails = |load: &str| {
        let mut h = Harness::start(options("fake_worker", json!({ "load": load })));
        let error = h.expect_load_failed();
        assert_eq!(h.backend.workers()[0].state, "lost");
        h.close(LONG);
        error
    };
    let error = fails("missing");
    assert_eq!((error.code(), error.worker().unwrap().exit_code), (ErrorCode::PythonPackageMissing, Some(1)));
    let error = fails("exit");
    assert_eq!(error.code(), ErrorCode::WorkerLost);
    assert!(error.message().contains("exit code 3"), "{error}");
    assert_eq!(error.worker().unwrap().stderr_tail, "no such device");
}

#[test]
fn an_interpreter_that_is_none_is_named() {
    for (python, code, part) in [
        ("/nowhere/python", ErrorCode::PythonNotFound, "/nowhere/python"),
        ("/dev/null", ErrorCode::BridgeUnavailable, "/dev/null"),
        ("/bin/false", ErrorCode::WorkerLost, "exit code 1"),
    ] {
        let mut h = Harness::start(pillion_backend_worker::WorkerOptions { python: python.into(), ..fake() });
        let error = h.expect_load_failed();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(part), "{error}");
        h.close(LONG);
    }
}

#[test]
fn a_package_of_another_version_is_refused() {
    let mut h = Harness::start(options("fake_worker", json!({ "version": "9.9.9" })));
    let error = h.expect_load_failed();
    assert_eq!(error.code(), ErrorCode::VersionMismatch);
    assert!(error.message().contains("9.9.9") && error.message().contains(pillion_core::VERSION), "{error}");
    h.close(LONG);
}

#[test]
fn a_load_that_never_ends_is_cut_off() {
    let mut o = options("fake_worker", json!({ "load": "hang" }));
    o.supervise.start_timeout = Duration::from_secs(2);
    let mut h = Harness::start(o);
    let error = h.expect_load_failed();
    assert!(error.message().contains("was not ready within 2s"), "{error}");
    h.close(LONG);
}

#[test]
fn restarts_are_used_up() {
    let mut o = fake();
    o.supervise.restart = RestartOptions { max_restarts: 1, backoff_min: Duration::ZERO, ..RestartOptions::default() };
    let mut h = Harness::ready(o);
    signal(h.pid(), Signal::KILL);
    h.expect_lost();
    h.expect_ready();
    signal(h.pid(), Signal::KILL);
    h.expect_lost();
    assert_eq!(h.expect_load_failed().code(), ErrorCode::WorkerLost);
    assert_eq!(h.backend.submit(&step(1, &[])).unwrap_err().code(), ErrorCode::WorkerLost);
    h.close(LONG);
}

#[test]
fn a_restart_that_fails_is_told_of_and_the_last_ones_reason_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut o = options("fake_worker", json!({ "once": folder.path().join("marker") }));
    o.supervise.restart = RestartOptions { max_restarts: 2, backoff_min: Duration::ZERO, ..RestartOptions::default() };
    let mut h = Harness::ready(o);
    signal(h.pid(), Signal::KILL);
    h.expect_lost();
    let error = h.expect_load_failed();
    assert!(error.message().contains("no second time"), "{error}");
    assert_eq!(h.expect_log("could not be started anew").level, LogLevel::Warn);
    h.close(LONG);
}

#[test]
fn close_ends_a_worker_whatever_it_does() {
    // Python that waits, Python that waits for ever, native code that SIGTERM cannot reach, and a stopped process.
    for command in [11, 3, 14, 13] {
        let mut h = Harness::ready(fake());
        h.backend.submit(&step(1, &[command])).unwrap();
        let pid = h.pid();
        if command == 13 {
            wait_until("the stopped process", || {
                std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T ")
            });
        }
        h.backend.close(Duration::from_secs(2));
        loop {
            match h.next() {
                BackendEvent::Closed => break,
                BackendEvent::StepDone(output) => assert_eq!(output.step_id, 1),
                other => panic!("{other:?}"),
            }
        }
        assert!(!is_alive(pid), "command {command}");
    }
}

#[test]
fn close_while_it_loads_and_close_at_once() {
    let h = Harness::start(options("fake_worker", json!({ "load": "hang" })));
    loop {
        if let BackendEvent::Progress(p) = h.events.recv_timeout(LONG).unwrap() {
            assert_eq!(p.stage, "weights");
            break;
        }
    }
    h.close(LONG);
    Harness::start(fake()).close(LONG);
    Harness::start(fake()).close(Duration::ZERO);
    Harness::ready(fake()).close(Duration::ZERO);
}

#[test]
fn what_the_worker_started_ends_with_it() {
    let mut h = Harness::ready(options("fake_worker", json!({ "load": "child" })));
    let child: u32 = h.expect_log("child ").message.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(is_alive(child));
    signal(h.pid(), Signal::KILL);
    h.expect_lost();
    wait_until("the end of the child", || !is_alive(child));
    h.close(LONG);
}
