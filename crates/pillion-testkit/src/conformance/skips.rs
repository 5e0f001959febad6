//! What is not run, and why.

use super::Bridge;

/// Cases that some bridges do not run.
#[derive(Debug)]
pub struct Skip {
    /// Which bridges.
    pub bridges: &'static [Bridge],
    /// Which cases.
    pub cases: &'static [&'static str],
    /// Why they cannot.
    pub reason: &'static str,
}

/// The whole list.
pub const SKIPS: &[Skip] = &[
    Skip {
        bridges: &[Bridge::Echo, Bridge::Grpc, Bridge::GrpcUnary],
        cases: &["a_tensor_may_lie_there_already"],
        reason: "it has no memory that both sides see",
    },
    Skip {
        bridges: &[Bridge::Echo],
        cases: &[
            "progress_is_told_before_ready",
            "a_step_before_ready_is_refused",
            "a_load_that_raises_says_why",
            "a_load_that_exits_is_an_error",
            "a_package_that_is_missing_is_named",
            "a_class_that_cannot_be_loaded_says_why",
            "close_while_it_loads",
        ],
        reason: "it loads nothing, so it is ready once it is started and no load can fail",
    },
    Skip {
        bridges: &[Bridge::Echo],
        cases: &[
            "an_exception_fails_its_step_alone",
            "what_a_model_writes_is_logged_with_its_request",
            "an_answer_that_cannot_be_is_no_answer",
            "what_a_model_keeps_of_a_step_never_changes",
            "a_big_result_passes_or_is_refused",
            "an_input_has_an_error_of_its_own",
            "a_class_that_raises_fails_its_batch_alone",
            "a_wrong_number_of_results_is_told",
            "what_a_class_keeps_of_tensors_never_changes",
        ],
        reason: "its model is ours and fixed: it raises, writes and keeps nothing and answers with what came",
    },
    Skip {
        bridges: &[Bridge::Echo],
        cases: &["a_step_for_a_class_is_refused"],
        reason: "its one model takes both steps and inputs",
    },
    Skip {
        bridges: &[Bridge::Echo],
        cases: &[
            "a_third_step_in_flight_is_refused",
            "a_slow_step_is_waited_for_and_may_be_aborted",
            "close_while_it_is_busy_does_not_wait",
            "close_with_time_lets_the_running_step_end",
        ],
        reason: "its model cannot be held up from outside; tests of its crate hold up the events instead",
    },
    Skip {
        bridges: &[Bridge::GrpcUnary],
        cases: &[
            "progress_is_told_before_ready",
            "a_step_before_ready_is_refused",
            "a_backend_starts_once",
            "a_backend_that_was_never_started_can_be_closed",
            "a_third_step_in_flight_is_refused",
            "an_answer_that_cannot_be_is_no_answer",
            "closed_comes_once_and_last",
            "close_while_it_loads",
            "close_while_it_is_busy_does_not_wait",
            "close_with_time_lets_the_running_step_end",
            "a_backend_dropped_without_close_leaves_no_model",
            "another_backend_follows_a_closed_one",
            "two_backends_do_not_disturb_each_other",
            "nothing_is_left_behind",
            "an_idle_worker_that_is_killed_is_replaced",
            "a_busy_worker_that_dies_leaves_its_last_words",
            "a_crash_in_native_code_tells_where",
            "a_model_that_ends_the_process_is_replaced",
        ],
        reason: "what makes its calls is a part of the tests and no backend: it neither supervises nor checks",
    },
    Skip {
        bridges: &[Bridge::GrpcUnary],
        cases: &[
            "a_load_that_raises_says_why",
            "a_load_that_exits_is_an_error",
            "a_package_that_is_missing_is_named",
            "a_class_that_cannot_be_loaded_says_why",
        ],
        reason: "a worker that was started by hand ends when it cannot load, and who asks too late finds nobody",
    },
    Skip {
        bridges: &[Bridge::GrpcUnary],
        cases: &[
            "what_a_model_writes_is_logged_with_its_request",
            "a_slow_step_is_waited_for_and_may_be_aborted",
            "a_class_that_raises_fails_its_batch_alone",
        ],
        reason: "a worker that was started by hand keeps its log to itself, on its own stderr, and these wait for it",
    },
    Skip {
        bridges: &[Bridge::Echo, Bridge::Embedded],
        cases: &[
            "an_idle_worker_that_is_killed_is_replaced",
            "a_busy_worker_that_dies_leaves_its_last_words",
            "a_crash_in_native_code_tells_where",
            "a_model_that_ends_the_process_is_replaced",
        ],
        reason: "it has no process of its own: what ends its model's process ends the engine's too",
    },
];

pub(super) fn reason(bridge: Bridge, case: &str) -> Option<&'static str> {
    let skip = SKIPS.iter().find(|skip| skip.bridges.contains(&bridge) && skip.cases.contains(&case));
    skip.map(|skip| skip.reason)
}
