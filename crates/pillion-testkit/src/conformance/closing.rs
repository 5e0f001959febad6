//! Closing, dropping, and what comes after.

use std::{env, process::Command, time::Duration};

use pillion_core::{
    BackendEvent, ErrorCode,
    forward::{Dtype, ForwardBatch, ForwardItem, Tensor},
};
use serde_json::json;

use super::{
    Bridge, Gate, Model, Subject,
    bench::{Bench, LONG, does, enters, inputs_of, is_alive},
};
use crate::Holdings;

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
    if subject.bridge() != Bridge::Echo {
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
    if subject.bridge() != Bridge::Echo {
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

/// What is counted belongs to the whole process, in which other cases run.
pub(super) fn nothing_is_left_behind(subject: &dyn Subject) {
    if !cfg!(target_os = "linux") {
        return;
    }
    alone("nothing_is_left_behind", || {
        // The interpreter and its thread are there for good, and whatever else the first ones make.
        lives(subject, |_, life| life());
        let before = Holdings::settled("the first ones", usize::from(subject.bridge() == Bridge::Embedded));
        assert_eq!((before.children, before.mappings.len(), before.folders.len()), (0, 0, 0));
        lives(subject, |what, life| before.check(what, life));
    });
}

/// Ways to live and to end.
fn lives(subject: &dyn Subject, mut live: impl FnMut(&str, &dyn Fn())) {
    live("steps, then close", &|| {
        let mut bench = Bench::ready(subject, &Model::steps());
        (1..50).for_each(|id| bench.round_trip(id));
        bench.close();
    });
    live("large tensors, then close", &|| {
        let mut bench = Bench::ready(subject, &Model::Class("Echo"));
        for forward_id in 0..20 {
            let tensor = Tensor::new(Dtype::Uint8, vec![300 << 10], vec![7; 300 << 10]).expect("it fits");
            let items = vec![ForwardItem { json: "null".to_owned(), tensors: vec![(None, tensor)] }];
            let batch = ForwardBatch { forward_id, items, ..ForwardBatch::default() };
            bench.backend.submit_forward(&batch).expect("it is taken");
            assert_eq!(bench.expect_forward().results, batch.items.into_iter().map(Ok).collect::<Vec<_>>());
        }
        bench.close();
    });
    live("closed at once", &|| {
        Bench::start(subject, &Model::steps()).close_whatever_comes();
    });
    live("dropped with a step under way", &|| {
        let mut bench = Bench::ready(subject, &Model::steps());
        bench.submit(&enters(1, 0, &[4]));
        bench.drop_unclosed();
    });
    if subject.bridge() != Bridge::Echo {
        live("a load that raises", &|| {
            let mut bench = Bench::start(subject, &Model::Steps(json!({ "load": "raise" })));
            bench.expect_load_failed();
            bench.close();
        });
        live("closed while it is busy", &|| {
            let gate = Gate::new();
            let mut bench = Bench::ready(subject, &Model::gated(&gate));
            bench.submit(&does(1, "wait"));
            bench.expect_log("waiting");
            bench.backend.close(Duration::ZERO);
            assert!(matches!(bench.next_event(), BackendEvent::Closed));
            drop(gate);
            bench.drop_in_silence();
            // What could not be waited for has ended by now.
            expect_no_model(subject);
        });
    }
    if subject.bridge().has_process() {
        live("a worker that is lost and replaced", &|| {
            let mut bench = Bench::ready(subject, &Model::steps());
            bench.submit(&does(1, "die"));
            bench.expect_lost();
            bench.expect_ready();
            bench.round_trip(2);
            bench.close();
        });
    }
}

/// Runs a case in a process in which nothing else runs.
fn alone(case: &str, run: impl FnOnce()) {
    const ALONE: &str = "PILLION_TEST_ALONE";
    if env::var_os(ALONE).is_some() {
        return run();
    }
    let mut command = Command::new(env::current_exe().expect("a test has a file"));
    command.args([case, "--exact", "--nocapture", "--test-threads=1"]).env(ALONE, "1");
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{said}\nthe child ended with {}", output.status);
}
