//! The engine around the echo model: what callers see.

mod common;

use std::time::Duration;

use common::Bench;
use pillion_backend_echo::EchoOptions;
use pillion_core::{ErrorCode, FinishReason, StopMatch};
use pillion_testkit::generate;

#[test]
fn answers_and_counts() {
    let mut bench = Bench::echo(EchoOptions::default());
    bench.engine().generate(1, generate("Grüße, 🌍!").build());
    let (text, finish) = bench.whole(1).ok();
    assert_eq!(text, "Grüße, 🌍!");
    assert_eq!((finish.finish_reason, finish.stop_match), (FinishReason::Stop, Some(StopMatch::Token(256))));
    let bytes = "Grüße, 🌍!".len() as u32;
    assert_eq!((finish.usage.prompt_tokens, finish.usage.completion_tokens), (bytes, bytes + 1));
    assert!(["tokenizeMs", "queueMs", "firstTokenMs", "totalMs"].iter().all(|k| finish.timings.contains_key(k)));
}

#[test]
fn many_at_once_each_get_their_own() {
    let mut bench = Bench::echo(EchoOptions { num_slots: 5, ..EchoOptions::default() });
    for run in 0..200u32 {
        bench.engine().generate(run, generate(&format!("number {run} {}", "x".repeat(run as usize % 37))).build());
    }
    for run in 0..200u32 {
        let (text, _) = bench.whole(run).ok();
        assert_eq!(text, format!("number {run} {}", "x".repeat(run as usize % 37)));
    }
    let metrics = bench.engine().metrics();
    assert!((metrics.counters["pillion_requests_finished_total"] - 200.0).abs() < 0.5);
    assert!(metrics.gauges.values().all(|v| v.abs() < 0.5), "{metrics:?}");
}

#[test]
fn stop_strings_end_the_text_before_them() {
    let mut bench = Bench::echo(EchoOptions::default());
    bench.engine().generate(1, generate("one two three").stop(&["zzz", " th"]).build());
    let (text, finish) = bench.whole(1).ok();
    assert_eq!((text.as_str(), finish.stop_match), ("one two", Some(StopMatch::Text(" th".into()))));
    bench.engine().generate(2, generate("ends with a begun sto").stop(&["stop"]).build());
    assert_eq!(bench.whole(2).ok().0, "ends with a begun sto", "what was held back is given at the end");
}

#[test]
fn max_tokens_never_splits_a_character() {
    let mut bench = Bench::echo(EchoOptions::default());
    bench.engine().generate(1, generate("ab🌍").max_tokens(2).build());
    let (text, finish) = bench.whole(1).ok();
    assert_eq!((text.as_str(), finish.finish_reason), ("ab", FinishReason::Length));
    bench.engine().generate(2, generate("ab").sampling(|s| s.ignore_eos = true).max_tokens(5).build());
    assert_eq!(bench.whole(2).ok().1.usage.completion_tokens, 5);
}

#[test]
fn token_data_is_flat_and_complete() {
    let mut bench = Bench::echo(EchoOptions::default());
    bench.engine().generate(1, generate("abc").sampling(|s| s.logprobs = Some(2.0)).build());
    let whole = bench.whole(1);
    assert_eq!(whole.tokens.ids, [97, 98, 99, 256]);
    assert_eq!((whole.tokens.logprobs.len(), whole.tokens.top_ids.len()), (4, 8));
}

#[test]
fn a_refused_option_is_the_runs_output() {
    let mut bench = Bench::echo(EchoOptions::default());
    bench.engine().generate(1, generate("x").request_id("mine").sampling(|s| s.temperature = Some(-1.0)).build());
    let error = bench.whole(1).err();
    assert_eq!(
        (error.code(), error.request_id(), error.param()),
        (ErrorCode::InvalidArgument, Some("mine"), Some("temperature"))
    );
    bench.engine().generate(2, generate("x").ids(&[300]).build());
    assert_eq!(bench.whole(2).err().param(), Some("prompt"));
    let long = "y".repeat(1 << 20);
    bench.engine().generate(3, generate(&long).build());
    assert_eq!(bench.whole(3).err().code(), ErrorCode::ContextLengthExceeded);
}

#[test]
fn close_lets_what_runs_finish_and_refuses_the_rest() {
    let mut bench = Bench::echo(EchoOptions::default());
    bench.engine().generate(1, generate(&"a".repeat(500)).build());
    bench.engine().close(Duration::from_secs(60));
    bench.engine().close(Duration::from_secs(60));
    bench.engine().generate(2, generate("late").build());
    assert_eq!(bench.whole(2).err().code(), ErrorCode::Closed);
    assert_eq!(bench.whole(1).ok().0.len(), 500);
    bench.wait_closed();
    assert_eq!(serde_json::to_value(bench.engine().status()).unwrap()["state"], "closed");
}

#[test]
fn close_without_drain_aborts() {
    let mut bench = Bench::echo(EchoOptions { step_time: Duration::from_millis(5), ..EchoOptions::default() });
    bench.engine().generate(1, generate(&"a".repeat(100_000)).build());
    bench.wait_for(|o| matches!(o, pillion_engine::EngineOutput::Run(r) if !r.text.is_empty()));
    bench.engine().close(Duration::ZERO);
    assert_eq!(bench.whole(1).ok().1.finish_reason, FinishReason::Abort);
    bench.wait_closed();
}

#[test]
fn dropping_the_handle_closes() {
    let mut bench = Bench::echo(EchoOptions::default());
    bench.engine = None;
    bench.wait_closed();
}
