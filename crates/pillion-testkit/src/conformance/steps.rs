//! Steps: their order, their errors, their size.

use pillion_core::{
    BackendEvent, ErrorCode, LogLevel, LogSource, Stage,
    step::{ROW_SAMPLE, Row, SEQUENCE_LOGPROBS, Step, TopLogprob},
};

use super::{
    Gate, Model, Subject,
    bench::{Bench, decodes, does, enters},
};

/// What the echo model says when its prompt is at its end.
const EOS: u32 = 256;

pub(super) fn steps_are_answered_in_order_two_at_a_time(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    let prompt: Vec<u32> = (0..200).collect();
    assert_eq!(bench.token(&enters(1, 3, &prompt)), 0);
    for id in (2..200).step_by(2) {
        bench.submit(&decodes(id, 3, 198 + id as u32));
        bench.submit(&decodes(id + 1, 3, 199 + id as u32));
        for id in [id, id + 1] {
            let output = bench.expect_step();
            assert_eq!((output.step_id, output.tokens, output.error), (id, vec![id as u32 - 1], None));
        }
    }
    bench.close();
}

pub(super) fn sequences_enter_are_cancelled_and_enter_again(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    // In two parts, beside another one.
    let row = |slot, start, count, flags| Row { slot, start, count, flags };
    let mut step = enters(1, 0, &[7, 8, 9]);
    let mut other = enters(1, 31, &[4]);
    other.new[0].prompt_offset = 3;
    step.new.append(&mut other.new);
    step.prompts.append(&mut other.prompts);
    step.rows = vec![row(0, 0, 2, 0), row(31, 0, 1, ROW_SAMPLE)];
    step.request_ids = vec!["run-ü".to_owned(), String::new()];
    assert_eq!(bench.token(&step), 4);
    let rest = Step { step_id: 2, rows: vec![row(0, 2, 1, ROW_SAMPLE), row(31, 1, 1, ROW_SAMPLE)], ..Step::default() };
    bench.submit(&rest);
    assert_eq!(bench.expect_step().tokens, [7, EOS]);
    // Cancelled: its slot is freed, and entered again in the same step.
    let again = Step { freed: vec![0, 31], ..enters(3, 0, &[5]) };
    assert_eq!(bench.token(&again), 5);
    bench.submit(&decodes(4, 31, 2));
    assert!(bench.expect_step().error.is_some_and(|error| error.message().contains("slot 31, which is free")));
    assert_eq!(bench.token(&decodes(5, 0, 1)), EOS);
    // Nothing to compute is a step too.
    bench.submit(&Step { step_id: 6, freed: vec![0], ..Step::default() });
    let output = bench.expect_step();
    assert_eq!((output.step_id, output.tokens.len(), output.error), (6, 0, None));
    bench.close();
}

pub(super) fn log_probabilities_come_with_their_tokens(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    let mut step = enters(1, 2, &[9]);
    step.new[0].flags = SEQUENCE_LOGPROBS;
    step.new[0].logprobs = 1;
    bench.submit(&step);
    let output = bench.expect_step();
    assert_eq!((output.tokens.as_slice(), output.logprobs.as_slice()), (&[9][..], &[0.0][..]), "{output:?}");
    assert_eq!(output.top, [TopLogprob { index: 0, id: 9, logprob: 0.0 }]);
    bench.close();
}

pub(super) fn a_step_out_of_turn_fails_alone(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    assert_eq!(bench.token(&enters(1, 0, &[7, 8])), 7);
    for (step, part) in [
        (decodes(2, 0, 5), "begins at 5 where 2 comes next"),
        (decodes(3, 1, 0), "slot 1, which is free"),
        (decodes(4, 32, 0), "slot 32"),
    ] {
        bench.submit(&step);
        let output = bench.expect_step();
        let error = output.error.expect("it is out of turn");
        assert_eq!((output.step_id, error.code(), output.tokens.len()), (step.step_id, ErrorCode::Internal, 0));
        assert!(error.message().contains(part), "{error}");
    }
    assert_eq!(bench.token(&decodes(5, 0, 2)), 8);
    bench.close();
}

pub(super) fn a_third_step_in_flight_is_refused(subject: &dyn Subject) {
    let mut gate = Gate::new();
    let mut bench = Bench::ready(subject, &Model::gated(&gate));
    bench.submit(&does(1, "wait"));
    bench.submit(&enters(2, 0, &[6]));
    assert_eq!(bench.state(), "busy");
    assert_eq!(bench.backend.submit(&enters(3, 1, &[6])).expect_err("two are under way").code(), ErrorCode::Internal);
    gate.open();
    assert_eq!(bench.expect_step().step_id, 1);
    assert_eq!(bench.expect_step().step_id, 2);
    bench.round_trip(4);
    bench.close();
}

pub(super) fn a_big_payload_passes_or_is_refused_with_the_limit(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    let prompt = |len: usize| Step { freed: vec![0], ..enters(1, 0, &vec![7; len]) };
    let overhead = {
        let mut bytes = Vec::new();
        prompt(0).encode_into(&mut bytes);
        bytes.len()
    };
    let longest = (subject.max_record_bytes().unwrap_or(8 << 20) - overhead) / 4;
    for len in [1, 100_000, 5, longest] {
        assert_eq!(bench.token(&prompt(len)), 7);
    }
    match subject.max_record_bytes() {
        None => assert_eq!(bench.token(&prompt(longest + 1)), 7),
        Some(max) => {
            let error = bench.backend.submit(&prompt(longest + 1)).expect_err("it is too long");
            assert_eq!(error.code(), ErrorCode::Unsupported);
            assert!(error.message().contains(&max.to_string()), "{error}");
        }
    }
    bench.round_trip(2);
    bench.close();
}

pub(super) fn an_exception_fails_its_step_alone(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    for (id, word, code, name) in [
        (1, "raise", ErrorCode::PythonError, "ValueError"),
        (3, "exit", ErrorCode::PythonError, "SystemExit"),
        (5, "interrupt", ErrorCode::PythonError, "KeyboardInterrupt"),
        (7, "memory", ErrorCode::OutOfMemory, "MemoryError"),
    ] {
        bench.submit(&does(id, word));
        let output = bench.expect_step();
        let error = output.error.expect("it raised");
        assert_eq!((output.step_id, error.code(), error.stage()), (id, code, Some(Stage::Forward)), "{error:?}");
        assert_eq!(error.is_retryable(), code == ErrorCode::OutOfMemory);
        let python = error.python().expect("an exception is behind it");
        assert_eq!(python.python_type, name);
        assert!(python.traceback.contains("in fail\n"), "{}", python.traceback);
        if word == "raise" {
            assert!(error.message().contains("the model raised: grüße 😀 "), "{error}");
        }
        bench.round_trip(id + 1);
    }
    bench.close();
}

pub(super) fn what_a_model_writes_is_logged_with_its_request(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    assert_eq!(bench.token(&does(1, "say grüße 😀")), 5);
    let record = bench.expect_log("on stdout: grüße 😀");
    assert_eq!((record.level, record.source), (LogLevel::Info, LogSource::Python));
    let record = bench.expect_log("on stderr: grüße 😀");
    assert_eq!((record.level, record.source), (LogLevel::Warn, LogSource::Python));
    let record = bench.expect_log("conformance: logged: grüße 😀");
    assert_eq!((record.level, record.source), (LogLevel::Error, LogSource::Python));
    assert_eq!(record.request_id.as_deref(), Some("do:say grüße 😀"));
    bench.round_trip(2);
    bench.close();
}

pub(super) fn a_slow_step_is_waited_for_and_may_be_aborted(subject: &dyn Subject) {
    let mut gate = Gate::new();
    let mut bench = Bench::ready(subject, &Model::gated(&gate));
    bench.submit(&does(1, "wait"));
    bench.expect_log("waiting");
    bench.submit(&enters(2, 0, &[6]));
    bench.backend.abort();
    bench.backend.abort();
    assert_eq!(bench.state(), "busy");
    gate.open();
    let output = bench.expect_step();
    assert_eq!((output.step_id, output.tokens, output.error), (1, vec![5], None));
    assert_eq!(bench.expect_step().tokens, [6]);
    bench.round_trip(3);
    bench.close();
}

pub(super) fn an_answer_that_cannot_be_is_no_answer(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    for (id, word, parts) in
        [(2, "other id", ["step 2", "step 3"]), (5, "noise", ["step record cannot be read", "5 bytes"])]
    {
        bench.submit(&does(id, word));
        // A process that cannot be trusted any more is replaced; in this one only the step can be given up.
        let error = match bench.next_event() {
            BackendEvent::WorkerLost(error) if subject.bridge().has_process() => {
                assert_eq!(error.code(), ErrorCode::WorkerLost);
                bench.expect_ready();
                error
            }
            BackendEvent::StepDone(output) if !subject.bridge().has_process() => {
                let error = output.error.expect("its answer was none");
                assert_eq!((output.step_id, error.code()), (id, ErrorCode::Internal));
                error
            }
            other => panic!("{other:#?}"),
        };
        assert!(parts.iter().all(|part| error.message().contains(part)), "{error}");
        bench.round_trip(id + 2);
    }
    bench.close();
}

pub(super) fn what_a_model_keeps_of_a_step_never_changes(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    for id in 0..1050u64 {
        let prompt: Vec<u32> = (5..55).map(|i| if i == 5 { 5 } else { i + id as u32 }).collect();
        let step = Step { request_ids: vec!["do:keep".to_owned()], freed: vec![0], ..enters(id, 0, &prompt) };
        assert_eq!(bench.token(&step), 5);
    }
    bench.close();
}
