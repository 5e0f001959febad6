//! Closing, dropping, and what comes after.

use std::time::Duration;

use pillion_core::{BackendEvent, ErrorCode};
use serde_json::json;

use super::{
    Gate, Model, Subject,
    bench::{Bench, LONG, does, enters, inputs_of, is_alive},
};

pub(super) fn closed_comes_once_and_last(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    bench.round_trip(1);
    bench.backend.close(LONG);
    bench.backend.close(Duration::ZERO);
    bench.backend.abort();
    assert!(matches!(bench.next_event(), BackendEvent::Closed));
    assert_eq!(bench.state(), "closed");
    assert_eq!(bench.backend.submit(&enters(2, 0, &[4])).expect_err("it is closed").code(), ErrorCode::Closed);
    let refused = bench.backend.submit_forward(&inputs_of(3, &["1"])).expect_err("it is closed");
    assert_eq!(refused.code(), ErrorCode::Closed);
    bench.backend.close(LONG);
    bench.drop_in_silence();
}

pub(super) fn close_while_it_loads(subject: &dyn Subject) {
    let mut gate = Gate::new();
    let mut model = Model::gated(&gate);
    let Model::Steps(options) = &mut model else { unreachable!("it is one") };
    options["load"] = json!("wait");
    let mut bench = Bench::start(subject, &model);
    bench.expect_log("waiting");
    bench.backend.close(LONG);
    gate.open();
    assert!(matches!(bench.next_event(), BackendEvent::Closed));
    bench.drop_in_silence();
    expect_no_model(subject);
}

/// A new model of the same process finds no other there.
fn expect_no_model(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    if subject.bridge() != super::Bridge::Echo {
        bench.expect_log("models before this one: 0");
    }
    bench.round_trip(1);
    bench.close();
}

pub(super) fn close_while_it_is_busy_does_not_wait(subject: &dyn Subject) {
    let mut gate = Gate::new();
    let mut bench = Bench::ready(subject, &Model::gated(&gate));
    let pid = bench.pid();
    bench.submit(&does(1, "wait"));
    bench.submit(&enters(2, 0, &[4]));
    bench.expect_log("waiting");
    bench.backend.close(Duration::ZERO);
    // The gate is still closed.
    assert!(matches!(bench.next_event(), BackendEvent::Closed));
    if subject.bridge().has_process() {
        assert!(!is_alive(pid), "process {pid} is still there");
    }
    gate.open();
    bench.drop_in_silence();
    expect_no_model(subject);
}

pub(super) fn close_with_time_lets_the_running_step_end(subject: &dyn Subject) {
    let mut gate = Gate::new();
    let mut bench = Bench::ready(subject, &Model::gated(&gate));
    bench.submit(&does(1, "wait"));
    bench.submit(&enters(2, 0, &[4]));
    bench.expect_log("waiting");
    bench.backend.close(LONG);
    gate.open();
    let output = bench.expect_step();
    assert_eq!((output.step_id, output.tokens, output.error), (1, vec![5], None));
    // The one behind it need not be run, but its order is kept.
    let mut event = bench.next_event();
    if let BackendEvent::StepDone(output) = &event {
        assert_eq!(output.step_id, 2);
        assert!(output.error.as_ref().is_none_or(|error| error.code() == ErrorCode::Closed), "{output:?}");
        event = bench.next_event();
    }
    assert!(matches!(event, BackendEvent::Closed), "{event:?}");
    bench.drop_in_silence();
}

pub(super) fn a_backend_dropped_without_close_leaves_no_model(subject: &dyn Subject) {
    let bench = Bench::ready(subject, &Model::steps());
    let pid = bench.pid();
    for event in bench.drop_unclosed() {
        assert!(matches!(event, BackendEvent::Log(_) | BackendEvent::Closed), "{event:?}");
    }
    if subject.bridge().has_process() {
        assert!(!is_alive(pid), "process {pid} is still there");
    }
    expect_no_model(subject);
}

pub(super) fn another_backend_follows_a_closed_one(subject: &dyn Subject) {
    for _ in 0..4 {
        expect_no_model(subject);
    }
    // Also after one that could not be loaded, or that took something else.
    if subject.bridge() != super::Bridge::Echo {
        let mut bench = Bench::start(subject, &Model::Steps(json!({ "load": "raise" })));
        bench.expect_load_failed();
        bench.close();
    }
    let mut bench = Bench::ready(subject, &Model::Class("Echo"));
    bench.forward_round_trip(1);
    bench.close();
    expect_no_model(subject);
}

pub(super) fn two_backends_do_not_disturb_each_other(subject: &dyn Subject) {
    let mut first = Bench::ready(subject, &Model::steps());
    let mut second = Bench::ready(subject, &Model::Class("Echo"));
    for id in 1..20 {
        first.submit(&enters(id, 0, &[6]));
        second.submit_inputs(id, &["[1]"]);
        first.submit(&enters(100 + id, 32, &[6]));
        assert_eq!(second.expect_forward().forward_id, id);
        assert_eq!(first.expect_step().tokens, [6]);
        assert!(first.expect_step().error.is_some());
    }
    second.close();
    first.round_trip(200);
    first.close();
}
