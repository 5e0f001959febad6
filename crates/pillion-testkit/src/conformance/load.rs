//! Loading, and how it fails.

use std::time::Duration;

use pillion_core::{BackendEvents, ErrorCode, Stage, VERSION, step};
use serde_json::json;

use super::{
    Bridge, Gate, Model, Subject,
    bench::{Bench, enters, is_alive},
};

pub(super) fn a_model_loads_and_says_what_it_is(subject: &dyn Subject) {
    let mut bench = Bench::start(subject, &Model::steps());
    let info = bench.expect_ready();
    assert_eq!((info.version.as_str(), info.step_version), (VERSION, step::VERSION));
    assert_eq!((info.model.name.as_str(), info.model.num_slots, info.pid), ("echo", 32, bench.pid()));
    assert_eq!(info.pid != std::process::id(), subject.bridge().has_process());
    assert!(is_alive(info.pid) || !cfg!(target_os = "linux"));
    assert_eq!(info.python.is_none(), subject.bridge() == Bridge::Echo, "{info:?}");
    let worker = &bench.backend.workers()[0];
    assert_eq!((worker.state.as_str(), worker.restarts), ("ready", 0));
    assert_eq!(bench.backend.max_in_flight(), 2);
    bench.round_trip(1);
    bench.close();
}

pub(super) fn progress_is_told_before_ready(subject: &dyn Subject) {
    let bench = Bench::ready(subject, &Model::steps());
    let weights: Vec<_> = bench.progress.iter().filter(|p| p.stage == "weights").map(|p| (p.done, p.total)).collect();
    assert_eq!(weights, [(1.0, Some(2.0)), (2.0, Some(2.0))]);
    bench.close();
}

pub(super) fn a_step_before_ready_is_refused(subject: &dyn Subject) {
    let mut gate = Gate::new();
    let mut model = Model::gated(&gate);
    let Model::Steps(options) = &mut model else { unreachable!("it is one") };
    options["load"] = json!("wait");
    let mut bench = Bench::start(subject, &model);
    bench.expect_log("waiting");
    assert_eq!(bench.state(), "starting");
    bench.backend.submit(&enters(1, 0, &[4])).expect_err("it is not ready");
    gate.open();
    bench.expect_ready();
    bench.round_trip(2);
    bench.close();
}

pub(super) fn a_backend_starts_once(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    let silent = || BackendEvents::new(|event| panic!("{event:?}"));
    assert_eq!(bench.backend.start(silent()).expect_err("it runs").code(), ErrorCode::Internal);
    bench.round_trip(1);
    bench.close();
}

pub(super) fn a_backend_that_was_never_started_can_be_closed(subject: &dyn Subject) {
    let mut backend = subject.backend(&Model::steps());
    assert_eq!(backend.workers()[0].state, "starting");
    backend.submit(&enters(1, 0, &[4])).expect_err("it was not started");
    backend.abort();
    backend.close(Duration::ZERO);
    backend.close(Duration::ZERO);
    assert_eq!(backend.workers()[0].state, "closed");
    assert_eq!(backend.submit(&enters(2, 0, &[4])).expect_err("it is closed").code(), ErrorCode::Closed);
    backend.start(BackendEvents::new(|event| panic!("{event:?}"))).expect_err("it is closed");
}

/// Why a load fails that does this; and that a failure keeps nothing from being closed.
fn failure(subject: &dyn Subject, model: &Model) -> pillion_core::Error {
    let mut bench = Bench::start(subject, model);
    let error = bench.expect_load_failed();
    assert_eq!(bench.state(), "lost");
    assert!(bench.backend.submit(&enters(1, 0, &[4])).is_err());
    bench.close();
    error
}

pub(super) fn a_load_that_raises_says_why(subject: &dyn Subject) {
    let error = failure(subject, &Model::Steps(json!({ "load": "raise" })));
    assert_eq!((error.code(), error.stage()), (ErrorCode::PythonError, Some(Stage::Load)), "{error:?}");
    assert!(error.message().contains("ValueError: weights are wrong: grüße 😀 "), "{error}");
    let python = error.python().expect("an exception is behind it");
    assert_eq!(python.python_type, "ValueError");
    assert!(python.traceback.contains("in load\n"), "{}", python.traceback);
}

pub(super) fn a_load_that_exits_is_an_error(subject: &dyn Subject) {
    let error = failure(subject, &Model::Steps(json!({ "load": "exit" })));
    assert_eq!(error.code(), ErrorCode::PythonError);
    assert_eq!(error.python().expect("an exception is behind it").python_type, "SystemExit");
}

pub(super) fn a_package_that_is_missing_is_named(subject: &dyn Subject) {
    let error = failure(subject, &Model::Steps(json!({ "load": "package" })));
    assert_eq!(error.code(), ErrorCode::PythonPackageMissing);
    assert!(error.message().contains("torch"), "{error}");
    assert_eq!(error.remedy(), Some("run `npx pillion setup`"));
}

pub(super) fn a_class_that_cannot_be_loaded_says_why(subject: &dyn Subject) {
    let error = failure(subject, &Model::Class("Missing"));
    assert_eq!((error.code(), error.param()), (ErrorCode::ModelNotFound, Some("model.class")));
    assert_eq!(error.stage(), Some(Stage::Load));
    let error = failure(subject, &Model::Class("Broken"));
    assert_eq!((error.code(), error.stage()), (ErrorCode::PythonError, Some(Stage::Load)));
    assert!(error.python().is_some_and(|python| python.traceback.contains("in load\n")), "{error:?}");
}
