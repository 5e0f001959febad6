//! The worker backend with a real process behind it, whose model is a fake: what every transport must do.

use std::time::Duration;

use crate::common::{Harness, LONG, class_options, fake, is_alive, options, signal, step, wait_until};
use pillion_backend_worker::RestartOptions;
use pillion_core::{
    Backend, BackendEvent, ErrorCode, LogLevel, LogSource,
    forward::{ForwardBatch, ForwardItem},
    step::{NewSequence, Step},
};
use rustix::process::Signal;
use serde_json::json;

#[test]
fn steps_are_answered_in_order_two_at_a_time() {
    let mut h = Harness::start(fake());
    assert_eq!(h.backend.submit(&step(1, &[])).unwrap_err().code(), ErrorCode::WorkerLost);
    let info = h.expect_ready();
    assert_eq!((info.model.name.as_str(), info.pid), ("fake", h.pid()));
    let status = &h.backend.workers()[0];
    assert_eq!((status.state.as_str(), status.restarts), ("ready", 0));
    assert!(status.rss_bytes > 1 << 20);
    for id in (1..200).step_by(2) {
        h.backend.submit(&step(id, &[])).unwrap();
        h.backend.submit(&step(id + 1, &[])).unwrap();
        assert_eq!(h.expect_step().step_id, id);
        assert_eq!(h.expect_step().step_id, id + 1);
    }
    let logs = h.close(LONG);
    let last = logs.last().expect("the handler says that it was closed");
    assert_eq!((last.message.as_str(), last.level, last.source), ("closed", LogLevel::Info, LogSource::Python));
}

#[test]
fn a_third_step_is_refused_and_the_others_go_on() {
    let mut h = Harness::ready(fake());
    h.backend.submit(&step(1, &[9])).unwrap();
    h.backend.submit(&step(2, &[])).unwrap();
    assert_eq!(h.backend.workers()[0].state, "busy");
    assert_eq!(h.backend.submit(&step(3, &[])).unwrap_err().code(), ErrorCode::Internal);
    h.backend.abort();
    assert_eq!(h.expect_step().step_id, 1);
    assert_eq!(h.expect_step().step_id, 2);
    h.round_trip(3);
    h.close(LONG);
}

#[test]
fn what_the_model_raises_is_the_steps_error() {
    let mut h = Harness::ready(fake());
    h.backend.submit(&step(5, &[1])).unwrap();
    let output = h.expect_step();
    let error = output.error.expect("the model raised");
    assert_eq!((output.step_id, error.code()), (5, ErrorCode::PythonError));
    assert!(error.message().contains("the model raised: ü"), "{error}");
    assert_eq!(error.python().unwrap().python_type, "ValueError");
    h.round_trip(6);
    h.close(LONG);
}

#[test]
fn a_large_record_passes_and_one_too_large_is_refused() {
    let mut h = Harness::ready(fake());
    let prompt = |len: usize| Step { prompts: vec![7; len], ..step(1, &[12]) };
    let overhead = {
        let mut bytes = Vec::new();
        prompt(0).encode_into(&mut bytes);
        bytes.len()
    };
    for len in [0, 1, 100_000, 5, ((1 << 20) - overhead) / 4] {
        h.backend.submit(&prompt(len)).unwrap();
        assert_eq!(h.expect_step().tokens, [(overhead + 4 * len) as u32]);
    }
    let error = h.backend.submit(&prompt(1 << 18)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unsupported);
    assert!(error.message().contains("1048576"), "{error}");
    h.round_trip(2);
    // The same in the other direction.
    h.backend.submit(&step(3, &[6])).unwrap();
    let error = h.expect_step().error.expect("it does not fit");
    assert_eq!(error.code(), ErrorCode::Unsupported);
    h.round_trip(4);
    h.close(LONG);
}

#[test]
fn what_a_model_keeps_of_a_step_never_changes() {
    let mut h = Harness::ready(fake());
    for id in 0..1000 {
        let prompts = (0..50).map(|i| i + id as u32).collect();
        h.backend.submit(&Step { prompts, ..step(id, &[18]) }).unwrap();
        assert_eq!(h.expect_step().error, None);
    }
    h.close(LONG);
}

#[test]
fn a_class_of_the_users_is_asked_between_its_own_errors() {
    let mut h = Harness::ready(class_options("Echo"));
    let item = |json: &str| ForwardItem { json: json.to_owned(), tensors: Vec::new() };
    let batch =
        |forward_id, items: &[&str]| ForwardBatch { forward_id, items: items.iter().map(|j| item(j)).collect() };
    h.backend.submit_forward(&batch(1, &["1", r#""raise""#])).unwrap();
    h.backend.submit_forward(&batch(2, &[r#"{"ü":[null]}"#, r#""error""#])).unwrap();
    assert_eq!(h.backend.submit_forward(&batch(3, &["1"])).unwrap_err().code(), ErrorCode::Internal);
    let output = h.expect_forward();
    let error = output.error.expect("it raised");
    assert_eq!((output.forward_id, error.code()), (1, ErrorCode::PythonError));
    assert_eq!(error.python().unwrap().python_type, "ValueError");
    let output = h.expect_forward();
    assert_eq!((output.forward_id, &output.results[0]), (2, &Ok(item(r#"{"ü":[null]}"#))));
    assert_eq!(output.results[1].as_ref().unwrap_err().python().unwrap().python_type, "KeyError");
    // A step is nothing for it, and says so in its own kind.
    h.backend.submit(&step(4, &[])).unwrap();
    assert!(h.expect_step().error.is_some_and(|e| e.message().contains("kind 1 where 2")));
    h.backend.submit_forward(&batch(5, &[r#""die""#])).unwrap();
    assert_eq!(h.expect_lost().worker().unwrap().exit_code, Some(7));
    h.expect_ready();
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    assert_eq!(h.backend.submit_forward(&batch(6, &[&long])).unwrap_err().code(), ErrorCode::Unsupported);
    h.backend.submit_forward(&batch(7, &[r#""long""#])).unwrap();
    assert_eq!(h.expect_forward().error.expect("too long").code(), ErrorCode::Unsupported);
    h.backend.submit_forward(&batch(8, &["8"])).unwrap();
    assert_eq!(h.expect_forward().results, [Ok(item("8"))]);
    h.close(LONG);
}

#[test]
fn a_class_that_cannot_be_loaded_says_why() {
    let mut h = Harness::start(class_options("Missing"));
    let error = h.expect_load_failed();
    assert_eq!((error.code(), error.param()), (ErrorCode::ModelNotFound, Some("model.class")));
    h.close(LONG);
    let mut h = Harness::start(class_options("Broken"));
    let error = h.expect_load_failed();
    assert_eq!(error.code(), ErrorCode::PythonError);
    assert!(error.python().unwrap().traceback.contains("in load"), "{error:?}");
    h.close(LONG);
}

#[test]
fn what_the_worker_writes_is_logged_and_nothing_else() {
    let mut h = Harness::ready(fake());
    h.backend.submit(&step(1, &[7])).unwrap();
    assert_eq!(h.expect_step().error, None);
    let stdout = h.expect_log("garbage on stdout");
    assert_eq!((stdout.level, stdout.source), (LogLevel::Info, LogSource::Python));
    assert_eq!(h.expect_log("on stderr").level, LogLevel::Warn);
    let logged = h.expect_log("fake: logged");
    assert_eq!((logged.level, logged.request_id.as_deref()), (LogLevel::Error, Some("r-1")));
    h.round_trip(2);
    h.close(LONG);
}

#[test]
fn the_worker_knows_the_requests_by_their_ids() {
    let mut h = Harness::ready(fake());
    let new = vec![NewSequence { slot: 3, max_len: 4, ..NewSequence::default() }];
    h.backend.submit(&Step { new, request_ids: vec!["run-ü".to_owned()], ..step(1, &[17]) }).unwrap();
    assert_eq!(h.expect_step().error, None);
    assert_eq!(h.expect_log("fake: entered").request_id.as_deref(), Some("run-ü"));
    h.close(LONG);
}

#[test]
fn an_idle_worker_that_is_killed_is_noticed_and_replaced() {
    let mut h = Harness::ready(fake());
    h.round_trip(1);
    let pid = h.pid();
    signal(pid, Signal::KILL);
    let error = h.expect_lost();
    assert_eq!((error.code(), error.is_retryable()), (ErrorCode::WorkerLost, true));
    assert_eq!(error.worker().unwrap().exit_signal.as_deref(), Some("SIGKILL"));
    h.expect_ready();
    assert_ne!(h.pid(), pid);
    assert_eq!(h.backend.workers()[0].restarts, 1);
    h.round_trip(2);
    h.close(LONG);
}

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
fn a_busy_worker_that_dies_leaves_its_last_words() {
    let mut h = Harness::ready(fake());
    h.backend.submit(&step(1, &[2])).unwrap();
    h.backend.submit(&step(2, &[])).unwrap();
    let error = h.expect_lost();
    let exit = error.worker().unwrap();
    assert_eq!((exit.exit_signal.as_deref(), exit.exit_code), (Some("SIGKILL"), None));
    assert_eq!(exit.stderr_tail, "dying");
    h.expect_ready();
    h.backend.submit(&step(3, &[8])).unwrap();
    let error = h.expect_lost();
    let exit = error.worker().unwrap();
    assert_eq!(exit.exit_signal.as_deref(), Some("SIGSEGV"));
    assert!(exit.stderr_tail.contains("fake_worker.py"), "the Python stack: {}", exit.stderr_tail);
    h.expect_ready();
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
fn a_model_that_exits_ends_its_rows_or_its_process_but_never_hangs() {
    let mut h = Harness::ready(fake());
    h.backend.submit(&step(1, &[10])).unwrap();
    let error = h.expect_step().error.expect("its rows have failed");
    assert_eq!(error.python().unwrap().python_type, "SystemExit");
    h.round_trip(2);
    h.backend.submit(&step(3, &[15])).unwrap();
    let error = h.expect_lost();
    assert_eq!(error.worker().unwrap().exit_code, Some(7));
    h.expect_ready();
    h.close(LONG);
}

#[test]
fn a_load_that_fails_says_why() {
    let fails = |load: &str| {
        let mut h = Harness::start(options("fake_worker", json!({ "load": load })));
        let error = h.expect_load_failed();
        assert_eq!(h.backend.workers()[0].state, "lost");
        h.close(LONG);
        error
    };
    let error = fails("missing");
    assert_eq!(error.code(), ErrorCode::PythonPackageMissing);
    assert!(error.remedy().unwrap().contains("setup"));
    assert_eq!(error.worker().unwrap().exit_code, Some(1));
    let error = fails("raise");
    assert_eq!(error.code(), ErrorCode::PythonError);
    assert!(error.python().unwrap().traceback.contains("weights are wrong"));
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
fn a_dropped_backend_takes_its_process_with_it() {
    let h = Harness::ready(fake());
    let pid = h.pid();
    drop(h);
    wait_until("the end of the process", || !is_alive(pid));
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
