//! Steps, closing and the end of the process.
#![cfg(unix)]

mod support;

use std::{fs, path::Path, time::Duration};

use pillion_backend_embedded::{EmbeddedBackend, shutdown, test_panic};
use pillion_core::{
    Backend, BackendEvent, BackendEvents, ErrorCode, Stage, VERSION,
    forward::{Dtype, ForwardBatch, ForwardItem, Tensor},
    step::Step,
};
use serde_json::json;
use support::{Running, child, fake_package, fifo, in_own_process, plain, real_class, step};

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
fn what_a_model_keeps_of_a_step_never_changes() {
    in_own_process("what_a_model_keeps_of_a_step_never_changes", || {
        let mut running = Running::start(json!({"keep": true}));
        running.ready();
        for id in 0..1000 {
            let prompts = (0..50).map(|i| i + id as u32).collect();
            running.backend.submit(&Step { prompts, ..step(id) }).unwrap();
            assert_eq!(running.step_done().error, None);
        }
    });
}

#[test]
fn a_class_of_the_users_is_asked_between_its_own_errors() {
    in_own_process("a_class_of_the_users_is_asked_between_its_own_errors", || {
        let mut running = Running::start_with(plain(), |options| real_class(options, "Echo"));
        assert_eq!(running.ready().model.tasks, ["predict"]);
        let item = |json: &str| ForwardItem { json: json.to_owned(), tensors: Vec::new() };
        let batch =
            |forward_id, items: &[&str]| ForwardBatch { forward_id, items: items.iter().map(|j| item(j)).collect() };
        running.backend.submit_forward(&batch(1, &["1", r#""raise""#])).unwrap();
        running.backend.submit_forward(&batch(2, &[r#"{"ü":[null]}"#, r#""error""#])).unwrap();
        let output = running.forward_done();
        let error = output.error.expect("it raised");
        assert_eq!((output.forward_id, error.code(), error.stage()), (1, ErrorCode::PythonError, Some(Stage::Forward)));
        assert!(error.python().unwrap().traceback.contains("in forward"), "{error:?}");
        let output = running.forward_done();
        assert_eq!((output.forward_id, &output.results[0]), (2, &Ok(item(r#"{"ü":[null]}"#))));
        assert_eq!(output.results[1].as_ref().unwrap_err().python().unwrap().python_type, "KeyError");
        running.backend.submit(&step(4)).unwrap();
        assert!(running.step_done().error.is_some_and(|e| e.message().contains("kind 1 where 2")));
        let long = format!("\"{}\"", "x".repeat(8 << 20));
        running.backend.submit_forward(&batch(5, &[&long])).unwrap();
        assert_eq!(running.forward_done().results, [Ok(item(&long))]);
        running.close();
        let error = running.backend.submit_forward(&batch(6, &["1"])).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Closed);
    });
}

#[test]
fn large_tensors_come_and_go_and_what_a_model_keeps_of_them_never_changes() {
    in_own_process("large_tensors_come_and_go_and_what_a_model_keeps_of_them_never_changes", || {
        let mut running = Running::start_with(plain(), |options| real_class(options, "Keeper"));
        running.ready();
        let (len, mut held) = (300 << 10, Vec::new());
        for id in 0..1000 {
            let fill = (id % 251) as u8;
            let tensor = Tensor::new(Dtype::Uint8, vec![len], vec![fill; len as usize]).unwrap();
            let items = vec![ForwardItem { json: "null".to_owned(), tensors: vec![(None, tensor.clone())] }];
            running.backend.submit_forward(&ForwardBatch { forward_id: id, items }).unwrap();
            let output = running.forward_done();
            assert_eq!(output.error, None);
            let results = &output.results[0].as_ref().unwrap().tensors;
            let named = |name: &str| &results.iter().find(|(n, _)| n.as_deref() == Some(name)).unwrap().1;
            assert_eq!(*named("same"), tensor);
            assert_eq!(named("strided").to_vec(), vec![fill; len as usize / 2]);
            // Results that are held keep their memory.
            if id < 5 {
                held.push((named("same").clone(), fill));
            }
        }
        assert!(held.iter().all(|(tensor, fill)| tensor.to_vec() == vec![*fill; len as usize]));
        running.close();
    });
}

#[test]
fn a_class_that_cannot_be_loaded_says_why() {
    in_own_process("a_class_that_cannot_be_loaded_says_why", || {
        let error = Running::start_with(plain(), |options| real_class(options, "Missing")).load_failed();
        assert_eq!((error.code(), error.param()), (ErrorCode::ModelNotFound, Some("model.class")));
        let error = Running::start_with(plain(), |options| real_class(options, "Broken")).load_failed();
        assert_eq!((error.code(), error.stage()), (ErrorCode::PythonError, Some(Stage::Load)));
        assert!(error.python().unwrap().traceback.contains("in load"), "{error:?}");
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
fn a_step_out_of_turn_is_refused() {
    in_own_process("a_step_out_of_turn_is_refused", || {
        let folder = tempfile::tempdir().unwrap();
        let fifo = fifo(folder.path());
        let mut running = Running::start(json!({"open": "wait", "fifo": fifo, "steps": {"1": "wait"}}));
        assert_eq!(running.backend.submit(&step(1)).unwrap_err().code(), ErrorCode::Internal);
        assert!(running.backend.start(BackendEvents::new(|_| {})).is_err());
        fs::write(&fifo, "go").unwrap();
        running.ready();
        assert_eq!(running.backend.max_in_flight(), 2);
        running.submit(1);
        running.submit(2);
        assert_eq!(running.state(), "busy");
        assert_eq!(running.backend.submit(&step(3)).unwrap_err().code(), ErrorCode::Internal);
        running.backend.abort();
        fs::write(&fifo, "go").unwrap();
        assert_eq!(running.step_done().step_id, 1);
        assert_eq!(running.step_done().step_id, 2);
        running.check_step(3);
        running.close();
        assert_eq!(running.backend.submit(&step(4)).unwrap_err().code(), ErrorCode::Closed);
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
            assert_eq!(running.load_failed().code(), ErrorCode::Closed);
            assert!(matches!(running.next(), BackendEvent::Closed));
        }
        let mut next = Running::start(plain());
        next.ready();
        assert_eq!(next.facts()["others"], 0);
    });
}

#[test]
fn a_backend_that_is_dropped_or_closed_unloads_its_model() {
    in_own_process("a_backend_that_is_dropped_or_closed_unloads_its_model", || {
        for _ in 0..5 {
            let mut running = Running::start(plain());
            running.ready();
            assert_eq!(running.facts()["others"], 0);
            running.close();
        }
        let mut dropped = Running::start(plain());
        dropped.ready();
        let Running { backend, events, .. } = dropped;
        drop(backend);
        let mut running = Running::start(plain());
        running.ready();
        assert_eq!(running.facts()["others"], 0);
        assert!(!events.try_iter().any(|event| !matches!(event, BackendEvent::Log(_))));
    });
}

#[test]
fn a_backend_that_was_never_started_needs_no_python() {
    let package = fake_package(VERSION);
    let mut backend = EmbeddedBackend::new(support::options(package.path(), plain()));
    assert_eq!(backend.workers()[0].state, "starting");
    assert_eq!(backend.submit(&step(1)).unwrap_err().code(), ErrorCode::Closed);
    backend.close(Duration::ZERO);
    backend.close(Duration::ZERO);
    assert_eq!(backend.workers()[0].state, "closed");
    assert!(backend.start(BackendEvents::new(|_| {})).is_err());
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
