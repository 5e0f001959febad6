//! Calls of `predict` around a scripted worker and the echo model.

mod common;

use std::time::Duration;

use common::Bench;
use pillion_backend_echo::EchoOptions;
use pillion_core::{
    BackendEvent, Error, ErrorCode, FinishReason, Limits, Stage,
    forward::{ForwardBatch, ForwardOutput},
};
use pillion_engine::EngineOutput;
use pillion_testkit::{Script, generate};

fn texts(batch: &ForwardBatch) -> Vec<&str> {
    batch.items.iter().map(|item| item.json.as_str()).collect()
}

fn predicting(limits: Limits) -> (Bench, Script) {
    let (mut bench, mut script) = Bench::scripted(2, limits);
    script.ready_to_predict();
    bench.wait_ready();
    // Once a pass is known to be short, a full one is submitted behind it.
    bench.predict(1000, &["0"]);
    let batch = script.next_forward();
    echo(&mut script, &batch);
    assert_eq!(bench.results(1000).len(), 1);
    (bench, script)
}

fn echo(script: &mut Script, batch: &ForwardBatch) {
    script.answer_forward(batch, |item| Ok(item.clone()));
}

/// Waits until so many calls (`requests`) or inputs (`forward_items`) wait.
fn wait_for_waiting(bench: &Bench, what: &str, count: f64) {
    while (bench.engine().metrics().gauges[&format!("pillion_{what}_waiting")] - count).abs() > 0.5 {
        std::thread::yield_now();
    }
}

#[test]
fn echo_predicts_while_it_generates() {
    let mut bench = Bench::echo(EchoOptions::default());
    for run in 0..100 {
        bench.predict(2 * run, &["1", "[2]", r#"{"run":3}"#]);
        bench.engine().generate(2 * run + 1, generate("some text").build());
    }
    for run in 0..100 {
        let results: Vec<_> = bench.results(2 * run).into_iter().map(Result::unwrap).collect();
        assert_eq!(results, ["1", "[2]", r#"{"run":3}"#]);
    }
    bench.engine().close(Duration::from_secs(60));
    bench.wait_closed();
    let metrics = bench.engine().metrics();
    assert!((metrics.counters["pillion_forward_items_total"] - 300.0).abs() < 0.5);
    assert!((metrics.counters["pillion_requests_finished_total"] - 200.0).abs() < 0.5);
    assert!(metrics.gauges.values().all(|v| v.abs() < 0.5), "{metrics:?}");
}

#[test]
fn callers_that_come_during_a_pass_share_the_next() {
    let (mut bench, mut script) = predicting(Limits { max_running: 4, ..Limits::default() });
    bench.predict(1, &["1"]);
    let first = script.next_forward();
    assert_eq!(texts(&first), ["1"]);
    bench.predict(2, &["2", "2"]);
    bench.predict(3, &["3"]);
    wait_for_waiting(&bench, "forward_items", 3.0);
    assert!(script.is_quiet(), "a second pass in flight would be cheaper full");
    echo(&mut script, &first);
    let second = script.next_forward();
    assert_eq!(texts(&second), ["2", "2", "3"]);
    bench.predict(4, &["4", "4", "4", "4", "4"]);
    let third = script.next_forward();
    assert_eq!(texts(&third).len(), 4, "a full one goes at once");
    echo(&mut script, &second);
    echo(&mut script, &third);
    let last = script.next_forward();
    echo(&mut script, &last);
    assert_eq!(bench.results(4).len(), 5);
}

#[test]
fn errors_of_an_item_and_of_a_pass_go_where_they_belong() {
    let (mut bench, mut script) = predicting(Limits::default());
    bench.predict(1, &["1", "2"]);
    let batch = script.next_forward();
    script.answer_forward(&batch, |item| {
        if item.json == "1" { Ok(item.clone()) } else { Err(Error::new(ErrorCode::PythonError, "no two")) }
    });
    let results = bench.results(1);
    assert_eq!(results[0], Ok("1".to_owned()));
    let error = results[1].as_ref().unwrap_err();
    assert_eq!((error.code(), error.request_id()), (ErrorCode::PythonError, Some("call-1")));
    bench.predict(2, &["1", "2"]);
    let batch = script.next_forward();
    let error = Error::new(ErrorCode::PythonError, "boom");
    assert_eq!(batch.request_ids, ["call-2", "call-2"]);
    script.send(BackendEvent::ForwardDone(ForwardOutput::failed(batch.forward_id, error)));
    let said = bench.wait_for(|o| matches!(o, EngineOutput::Log(_)));
    let EngineOutput::Log(record) = said else { unreachable!("it was waited for") };
    assert!(record.message.ends_with("failed: python_error: boom; requests: call-2"), "{}", record.message);
    assert_eq!(record.request_id.as_deref(), Some("call-2"));
    assert!(bench.results(2).iter().all(|r| r.as_ref().is_err_and(|e| e.message() == "boom")));
    bench.predict(3, &[]);
    assert!(bench.results(3).is_empty());
}

#[test]
fn a_model_does_what_it_can_and_refuses_the_rest() {
    let (mut bench, _script) = predicting(Limits::default());
    bench.engine().generate(1, generate("x").build());
    let error = bench.whole(1).err();
    assert_eq!((error.code(), error.stage()), (ErrorCode::Unsupported, Some(Stage::Validate)));
    assert!(error.message().contains("cannot generate; it can predict"), "{error}");
    let (mut bench, mut script) = Bench::scripted(1, Limits::default());
    bench.predict(1, &["1"]);
    script.ready();
    let error = bench.whole(1).err();
    assert!(error.code() == ErrorCode::Unsupported && error.message().contains("cannot predict"), "{error}");
}

#[test]
fn what_is_under_way_fails_with_its_worker_and_what_waits_goes_on() {
    let (mut bench, mut script) = predicting(Limits { max_running: 1, ..Limits::default() });
    bench.predict(1, &["1", "2", "3"]);
    let first = script.next_forward();
    let second = script.next_forward();
    script.send(BackendEvent::WorkerLost(Error::new(ErrorCode::WorkerLost, "killed")));
    bench.wait_for(|o| matches!(o, EngineOutput::Log(_)));
    assert!(script.is_quiet());
    script.ready_to_predict();
    let third = script.next_forward();
    assert_eq!(texts(&third), ["3"]);
    echo(&mut script, &first);
    echo(&mut script, &second);
    echo(&mut script, &third);
    let results = bench.results(1);
    for lost in &results[..2] {
        let error = lost.as_ref().unwrap_err();
        assert!(error.code() == ErrorCode::WorkerLost && error.is_retryable());
        assert_eq!((error.request_id(), error.stage()), (Some("call-1"), Some(Stage::Forward)));
    }
    assert_eq!(results[2], Ok("3".to_owned()));
}

#[test]
fn a_worker_lost_for_good_ends_every_call() {
    let (mut bench, mut script) = predicting(Limits::default());
    bench.predict(1, &["1"]);
    script.next_forward();
    script.send(BackendEvent::LoadFailed(Error::new(ErrorCode::WorkerLost, "killed too often")));
    bench.wait_closed();
    assert_eq!(bench.whole(1).err().code(), ErrorCode::WorkerLost);
    bench.predict(3, &["3"]);
    assert_eq!(bench.whole(3).err().code(), ErrorCode::WorkerLost);
}

#[test]
fn abort_takes_a_call_out_wherever_it_is() {
    let (mut bench, mut script) = predicting(Limits { max_running: 1, ..Limits::default() });
    bench.predict(1, &["1", "1", "1"]);
    let first = script.next_forward();
    let second = script.next_forward();
    bench.engine().abort(1);
    assert_eq!(bench.whole(1).ok().1.finish_reason, FinishReason::Abort);
    bench.predict(1, &["2"]);
    echo(&mut script, &first);
    echo(&mut script, &second);
    let next = script.next_forward();
    assert_eq!(texts(&next), ["2"], "the rest of the first call is gone");
    echo(&mut script, &next);
    assert_eq!(bench.results(1), [Ok("2".to_owned())]);
}

#[test]
fn a_deadline_ends_a_call() {
    let (mut bench, mut script) = predicting(Limits::default());
    bench.predict(1, &["1"]);
    script.next_forward();
    bench.predict_within(2, &["2"], Some(1.0));
    let error = bench.whole(2).err();
    assert_eq!((error.code(), error.request_id()), (ErrorCode::DeadlineExceeded, Some("call-2")));
    bench.predict_within(3, &["3"], Some(-1.0));
    assert_eq!(bench.whole(3).err().param(), Some("timeoutMs"));
}

#[test]
fn a_full_queue_refuses_calls_at_once() {
    let limits = Limits { max_queued_requests: 1, max_queued_bytes: 100, ..Limits::default() };
    let (mut bench, mut script) = predicting(limits);
    let long = format!("\"{}\"", "x".repeat(200));
    bench.predict(1, &[&long]);
    assert_eq!(bench.whole(1).err().code(), ErrorCode::InvalidArgument);
    bench.predict(2, &["2"]);
    let batch = script.next_forward();
    wait_for_waiting(&bench, "requests", 0.0);
    bench.predict(3, &["3"]);
    wait_for_waiting(&bench, "forward_items", 1.0);
    bench.predict(4, &["4"]);
    let error = bench.whole(4).err();
    assert!(error.code() == ErrorCode::QueueFull && error.is_retryable());
    echo(&mut script, &batch);
    let batch = script.next_forward();
    echo(&mut script, &batch);
    assert_eq!(bench.results(3), [Ok("3".to_owned())]);
}

#[test]
fn close_drains_calls_and_ends_what_is_left() {
    let (mut bench, mut script) = predicting(Limits::default());
    bench.predict(1, &["1"]);
    let batch = script.next_forward();
    bench.engine().close(Duration::from_secs(60));
    bench.predict(2, &["2"]);
    assert_eq!(bench.whole(2).err().code(), ErrorCode::Closed);
    echo(&mut script, &batch);
    assert_eq!(bench.results(1), [Ok("1".to_owned())]);
    bench.wait_closed();
    let (mut bench, mut script) = predicting(Limits::default());
    bench.predict(1, &["1"]);
    script.next_forward();
    bench.engine().close(Duration::ZERO);
    assert_eq!(bench.whole(1).ok().1.finish_reason, FinishReason::Abort);
    bench.wait_closed();
}
