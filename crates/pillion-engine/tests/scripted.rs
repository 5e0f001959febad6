//! The engine around a scripted worker: the order of things, and the unhappy ways.

mod common;

use std::time::Duration;

use common::Bench;
use pillion_core::{
    BackendEvent, Error, ErrorCode, FinishReason, Limits, LogLevel, LogRecord, LogSource,
    step::{NO_TOKEN, StepOutput},
};
use pillion_engine::EngineOutput;
use pillion_testkit::generate;

#[test]
fn requests_made_while_the_model_loads_wait_for_it() {
    let (mut bench, mut script) = Bench::scripted(1, Limits::default());
    bench.engine().generate(1, generate("ab").max_tokens(1).build());
    script.ready();
    bench.wait_ready();
    let step = script.next_step();
    script.answer(&step, |_| u32::from(b'z'));
    assert_eq!(bench.whole(1).ok().0, "z");
}

#[test]
fn a_model_that_does_not_load_ends_what_waits() {
    let (mut bench, mut script) = Bench::scripted(1, Limits::default());
    bench.engine().generate(1, generate("ab").build());
    script.send(BackendEvent::LoadFailed(Error::new(ErrorCode::ModelLoadFailed, "no weights")));
    bench.wait_closed();
    assert_eq!(bench.whole(1).err().code(), ErrorCode::ModelLoadFailed);
    bench.engine().generate(2, generate("ab").build());
    assert_eq!(bench.whole(2).err().code(), ErrorCode::ModelLoadFailed);
    assert_eq!(serde_json::to_value(bench.engine().status()).unwrap()["state"], "failed");
}

#[test]
fn requests_join_a_running_batch_and_leave_it() {
    let (mut bench, mut script) = Bench::scripted(1, Limits::default());
    script.ready();
    bench.engine().generate(1, generate("aaaa").build());
    let first = script.next_step();
    bench.engine().generate(2, generate("bb").max_tokens(2).build());
    // The second is in the queue before the first step is answered: it joins at the next boundary.
    while bench.engine().metrics().gauges["pillion_prompt_tokens_waiting"] < 2.0 {
        std::thread::yield_now();
    }
    script.answer(&first, |_| u32::from(b'x'));
    let mut step = script.next_step();
    if step.rows.len() == 1 {
        script.answer(&step, |_| u32::from(b'x'));
        step = script.next_step();
    }
    assert_eq!((step.rows.len(), step.new.len()), (2, 1));
    script.answer(&step, |_| u32::from(b'y'));
    let step = script.next_step();
    script.answer(&step, |slot| if slot == 0 { 256 } else { u32::from(b'z') });
    assert_eq!(bench.whole(2).ok().0, "yz");
    assert!(bench.whole(1).ok().0.starts_with('x'));
}

#[test]
fn abort_frees_the_slot_at_the_next_step() {
    let (mut bench, mut script) = Bench::scripted(1, Limits::default());
    script.ready();
    bench.engine().generate(1, generate("aaaa").build());
    let step = script.next_step();
    bench.engine().abort(1);
    bench.engine().abort(1);
    bench.engine().abort(99);
    let (text, finish) = bench.whole(1).ok();
    assert_eq!((text.as_str(), finish.finish_reason), ("", FinishReason::Abort));
    script.answer(&step, |_| u32::from(b'x'));
    bench.engine().generate(2, generate("b").max_tokens(1).build());
    let step = script.next_step();
    assert_eq!((step.freed.as_slice(), step.rows.len()), ([0].as_slice(), 1));
    script.answer(&step, |_| u32::from(b'y'));
    assert_eq!(bench.whole(2).ok().0, "y");
}

#[test]
fn an_answer_with_another_number_of_tokens_ends_its_rows_and_the_worker_goes_on() {
    let (mut bench, mut script) = Bench::scripted(1, Limits::default());
    script.ready();
    for (run, tokens) in [(1, vec![]), (2, vec![u32::from(b'x'); 3])] {
        bench.engine().generate(run, generate("aa").request_id("mine").max_tokens(8).build());
        let step_id = script.next_step().step_id;
        let said = format!("answered step {step_id} with {} tokens for 1 rows", tokens.len());
        script.send(BackendEvent::StepDone(StepOutput { step_id, tokens, ..StepOutput::default() }));
        let error = bench.whole(run).err();
        assert_eq!((error.code(), error.request_id()), (ErrorCode::Internal, Some("mine")));
        assert!(error.message().contains(&said), "{error}");
    }
    bench.engine().generate(3, generate("b").max_tokens(1).build());
    let step = script.next_step();
    script.answer(&step, |_| u32::from(b'z'));
    assert_eq!(bench.whole(3).ok().0, "z");
}

#[test]
fn a_failing_step_ends_its_rows_and_the_worker_goes_on() {
    let (mut bench, mut script) = Bench::scripted(1, Limits::default());
    script.ready();
    bench.engine().generate(1, generate("aaaa").request_id("first").build());
    let step = script.next_step();
    let error = Error::new(ErrorCode::PythonError, "boom");
    script.send(BackendEvent::StepDone(StepOutput::failed(step.step_id, error)));
    let said = bench.wait_for(|o| matches!(o, EngineOutput::Log(_)));
    let EngineOutput::Log(record) = said else { unreachable!("it was waited for") };
    assert_eq!(record.message, format!("step {} failed: python_error: boom; requests: first", step.step_id));
    assert_eq!(record.request_id.as_deref(), Some("first"));
    let error = bench.whole(1).err();
    assert_eq!((error.code(), error.request_id()), (ErrorCode::PythonError, Some("first")));
    bench.engine().generate(2, generate("b").max_tokens(1).build());
    let step = script.next_step();
    assert_eq!(step.freed, [0]);
    script.answer(&step, |_| NO_TOKEN);
    assert!(bench.whole(2).err().message().contains("not finite"));
}

fn lost() -> BackendEvent {
    BackendEvent::WorkerLost(Error::new(ErrorCode::WorkerLost, "killed"))
}

#[test]
fn a_stream_goes_on_after_a_lost_worker() {
    let (mut bench, mut script) = Bench::scripted(1, Limits::default());
    script.ready();
    bench.engine().generate(1, generate("ab").max_tokens(4).build());
    for c in b"xy" {
        let step = script.next_step();
        script.answer(&step, |_| u32::from(*c));
    }
    let unanswered = script.next_step();
    script.send(lost());
    let said = bench.wait_for(|o| matches!(o, EngineOutput::Log(_)));
    let EngineOutput::Log(record) = said else { unreachable!("it was waited for") };
    assert_eq!((record.level, record.request_id.as_deref()), (LogLevel::Error, Some("test-ab")));
    assert_eq!(record.message, "worker_lost: killed; requests: test-ab");
    assert!(script.is_quiet(), "nothing is submitted while no worker is there");
    assert_eq!(serde_json::to_value(bench.engine().status()).unwrap()["state"], "degraded");
    script.ready();
    let step = script.next_step();
    assert_eq!(step.prompts, b"abxy".map(u32::from));
    script.answer(&unanswered, |_| 0);
    script.answer(&step, |_| u32::from(b'z'));
    let step = script.next_step();
    script.answer(&step, |_| u32::from(b'!'));
    let (text, finish) = bench.whole(1).ok();
    assert_eq!((text.as_str(), finish.usage.prompt_tokens, finish.usage.completion_tokens), ("xyz!", 2, 4));
}

#[test]
fn what_is_submitted_to_a_worker_that_has_gone_goes_to_the_next() {
    let (mut bench, mut script) = Bench::scripted(1, Limits::default());
    script.ready();
    bench.engine().generate(1, generate("ab").max_tokens(2).build());
    let step = script.next_step();
    // In the middle of a stream.
    script.refuse_steps();
    script.answer(&step, |_| u32::from(b'x'));
    script.next_step();
    script.send(lost());
    script.ready();
    let step = script.next_step();
    assert_eq!(step.prompts, b"abx".map(u32::from));
    script.answer(&step, |_| u32::from(b'y'));
    assert_eq!(bench.whole(1).ok().0, "xy");
    // While nothing runs.
    script.refuse_steps();
    bench.engine().generate(2, generate("c").max_tokens(1).build());
    script.next_step();
    script.send(lost());
    script.ready();
    let step = script.next_step();
    script.answer(&step, |_| u32::from(b'z'));
    assert_eq!(bench.whole(2).ok().0, "z");
}

#[test]
fn a_request_that_takes_every_worker_down_is_given_up() {
    let (mut bench, mut script) = Bench::scripted(1, Limits::default());
    script.ready();
    bench.engine().generate(1, generate("ab").build());
    for _ in 0..3 {
        script.next_step();
        script.send(lost());
        script.ready();
    }
    let error = bench.whole(1).err();
    assert!(error.code() == ErrorCode::WorkerLost && error.is_retryable());
    bench.engine().generate(2, generate("b").max_tokens(1).build());
    let step = script.next_step();
    script.answer(&step, |_| u32::from(b'c'));
    assert_eq!(bench.whole(2).ok().0, "c");
}

#[test]
fn a_worker_lost_for_good_ends_all_and_nothing_is_taken_after_it() {
    let (mut bench, mut script) = Bench::scripted(1, Limits::default());
    script.ready();
    bench.engine().generate(1, generate("aaaa").build());
    script.next_step();
    script.send(lost());
    script.send(BackendEvent::LoadFailed(Error::new(ErrorCode::WorkerLost, "killed too often")));
    bench.wait_closed();
    let error = bench.whole(1).err();
    assert!(error.code() == ErrorCode::WorkerLost && error.is_retryable());
    bench.engine().generate(2, generate("b").build());
    assert_eq!(bench.whole(2).err().code(), ErrorCode::WorkerLost);
    bench.engine().close(Duration::ZERO);
}

#[test]
fn a_full_queue_refuses_at_once() {
    let (mut bench, mut script) = Bench::scripted(1, Limits { max_queued_requests: 2, ..Limits::default() });
    for run in 1..=3 {
        bench.engine().generate(run, generate("a").max_tokens(1).build());
    }
    let error = bench.whole(3).err();
    assert!(error.code() == ErrorCode::QueueFull && error.is_retryable() && error.remedy().is_some());
    script.ready();
    for _ in 0..2 {
        let step = script.next_step();
        script.answer(&step, |_| 256);
        if step.rows.len() == 2 {
            break;
        }
    }
    bench.whole(1).ok();
    bench.whole(2).ok();
}

#[test]
fn a_deadline_ends_a_run_that_waits() {
    let (mut bench, mut script) = Bench::scripted(1, Limits::default());
    script.ready();
    bench.engine().generate(1, generate("a").sampling(|s| s.timeout_ms = Some(1.0)).build());
    let error = bench.whole(1).err();
    assert_eq!(error.code(), ErrorCode::DeadlineExceeded);
}

#[test]
fn log_lines_and_progress_pass_through() {
    let (mut bench, mut script) = Bench::scripted(1, Limits::default());
    let record =
        LogRecord { level: LogLevel::Warn, source: LogSource::Python, message: "hot".into(), request_id: None };
    script.send(BackendEvent::Log(record.clone()));
    let EngineOutput::Log(got) = bench.wait_for(|o| matches!(o, EngineOutput::Log(_))) else { unreachable!() };
    assert_eq!(got, record);
}

#[test]
fn close_while_loading_and_with_waiting_requests_ends_everything() {
    let (mut bench, _script) = Bench::scripted(1, Limits::default());
    bench.engine().generate(1, generate("a").build());
    bench.engine().close(Duration::ZERO);
    assert_eq!(bench.whole(1).err().code(), ErrorCode::Closed);
    bench.wait_closed();
}
