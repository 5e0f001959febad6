//! Steps, closing and the end of the process, beyond what all bridges do, which `pillion_testkit::conformance` shows.
#![cfg(unix)]

mod support;

use std::{fs, path::Path, time::Duration};

use pillion_backend_embedded::{shutdown, test_panic};
use pillion_core::{Backend, BackendEvent, ErrorCode, Stage};
use serde_json::json;
use support::{Running, child, fifo, in_own_process, plain};

#[test]
fn what_a_step_raises_ends_that_step_alone() {
    in_own_process("what_a_step_raises_ends_that_step_alone", || {
        let steps = json!({"2": "raise", "3": "exit", "4": "memory", "5": "interrupt", "6": "text", "7": "noise", "8": "other_id"});
        let mut running = Running::start(json!({"steps": steps}));
        running.ready();
        let mut failed = |id, code, word: &str| {
            let error = running.failed_step(id);
            assert_eq!((error.code(), error.stage()), (code, Some(Stage::Forward)), "{error}");
            assert!(error.message().contains(word), "{word} is not in: {error}");
            running.check_step(id + 100);
            error
        };
        let error = failed(2, ErrorCode::PythonError, "KeyError: 'no such layer'");
        let python = error.python().unwrap();
        assert_eq!(python.python_type, "KeyError");
        assert!(python.traceback.contains("in step\n"), "{}", python.traceback);
        failed(3, ErrorCode::PythonError, "SystemExit");
        assert!(failed(4, ErrorCode::OutOfMemory, "MemoryError").is_retryable());
        failed(5, ErrorCode::PythonError, "KeyboardInterrupt");
        failed(6, ErrorCode::Internal, "got str");
        failed(7, ErrorCode::Internal, "5 bytes");
        failed(8, ErrorCode::Internal, "step 8 was answered as step 9");
    });
}

#[test]
fn deep_recursion_has_room_on_the_stack() {
    in_own_process("deep_recursion_has_room_on_the_stack", || {
        let mut running = Running::start(json!({"steps": {"1": "deep"}}));
        running.ready();
        running.check_step(1);
    });
}

#[test]
fn a_panic_in_the_bridge_is_an_error() {
    in_own_process("a_panic_in_the_bridge_is_an_error", || {
        assert!(test_panic().is_err(), "no thread yet");
        let mut running = Running::start(plain());
        running.ready();
        let error = test_panic().unwrap_err();
        assert_eq!(error.code(), ErrorCode::Internal);
        assert!(error.message().contains("test_panic was called"), "{error}");
        running.check_step(1);
    });
}

#[test]
fn closing_while_a_step_runs() {
    in_own_process("closing_while_a_step_runs", || {
        let folder = tempfile::tempdir().unwrap();
        let fifo = fifo(folder.path());
        let mut running = Running::start(json!({"fifo": fifo, "steps": {"1": "wait"}}));
        running.ready();
        running.submit(1);
        running.submit(2);
        running.wait_for_line("waiting");
        running.backend.close(Duration::from_millis(1));
        running.backend.close(Duration::from_millis(1));
        assert!(matches!(running.next(), BackendEvent::Closed));

        // Python is let go. The step behind it is not run, the model is unloaded, and no event comes any more.
        fs::write(&fifo, "go").unwrap();
        let mut next = Running::start(plain());
        next.ready();
        assert_eq!(next.facts()["others"], 0);
        assert_eq!(running.events.try_iter().count(), 0);
    });
}

#[test]
fn closing_with_time_drops_what_is_queued_and_answers_it() {
    in_own_process("closing_with_time_drops_what_is_queued_and_answers_it", || {
        let folder = tempfile::tempdir().unwrap();
        let fifo = fifo(folder.path());
        let mut running = Running::start(json!({"fifo": fifo, "steps": {"1": "wait"}, "close": "raise"}));
        running.ready();
        running.submit(1);
        running.submit(2);
        running.wait_for_line("waiting");
        running.backend.close(Duration::from_secs(100));
        fs::write(&fifo, "go").unwrap();
        assert_eq!(running.step_done().tokens, [101, 100]);
        let dropped = running.step_done();
        assert_eq!((dropped.step_id, dropped.error.unwrap().code()), (2, ErrorCode::Closed));
        assert!(matches!(running.next(), BackendEvent::Closed));
        let mut next = Running::start(plain());
        next.ready();
        assert_eq!(next.facts()["others"], 0, "a close that raises must unload all the same");
    });
}

#[test]
fn closing_while_loading() {
    in_own_process("closing_while_loading", || {
        let folder = tempfile::tempdir().unwrap();
        let fifo = fifo(folder.path());
        let mut running = Running::start(json!({"open": "wait", "fifo": fifo}));
        let mut queued = Running::start(plain());
        running.wait_for_line("waiting");
        running.backend.close(Duration::from_secs(100));
        queued.backend.close(Duration::from_secs(100));
        fs::write(&fifo, "go").unwrap();
        for running in [&mut running, &mut queued] {
            assert!(matches!(running.next(), BackendEvent::Closed));
        }
        let mut next = Running::start(plain());
        next.ready();
        assert_eq!(next.facts()["others"], 0);
    });
}

#[test]
fn the_process_exits_while_python_is_busy() {
    let test = "the_process_exits_while_python_is_busy";
    let ended = child(test, &[], || {
        let mut running = Running::start(json!({"steps": {"1": "spin"}}));
        running.ready();
        running.submit(1);
        running.wait_for_line("spinning");
        std::process::exit(42);
    });
    if let Some((status, said)) = ended {
        assert_eq!(status.code(), Some(42), "{said}");
    }
}

#[test]
fn shutdown_runs_atexit_unless_python_is_busy() {
    in_own_process("shutdown_runs_atexit_unless_python_is_busy", || {
        assert!(shutdown(Duration::ZERO), "no interpreter runs");
        let folder = tempfile::tempdir().unwrap();
        let (fifo, file) = (fifo(folder.path()), folder.path().join("ran"));
        let mut running = Running::start(json!({"open": "atexit", "file": file, "fifo": fifo, "steps": {"1": "wait"}}));
        running.ready();
        running.submit(1);
        running.wait_for_line("waiting");
        assert!(!shutdown(Duration::from_millis(1)));
        fs::write(&fifo, "go").unwrap();
        assert_eq!(running.step_done().step_id, 1);
        running.check_step(2);
        assert!(!Path::new(&file).exists(), "it was given up, and must not run later");
        assert!(shutdown(Duration::from_secs(100)));
        assert_eq!(fs::read_to_string(&file).unwrap(), "ran");
    });
}
