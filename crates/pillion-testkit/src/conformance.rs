//! What every bridge must do: one list of cases for all of them.
//!
//! A backend's crate has one test file that says how to make its backend, as a [`Subject`], and calls [`crate::conformance!`]: each case is
//! then a test there. A case that is added to the list below reaches all bridges; one that cannot be run by some needs a line with a reason
//! in [`SKIPS`], and one that a single bridge can run belongs to that bridge's own tests.

mod bench;
mod closing;
mod forwards;
mod load;
mod model;
mod process;
mod skips;
mod steps;

use std::fmt;

use pillion_core::Backend;

pub use bench::Bench;
pub use model::{Gate, Model, python_path};
pub use skips::{SKIPS, Skip};

/// What the cases are run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names")]
pub enum Bridge {
    Echo,
    Embedded,
    Shm,
    Grpc,
    /// The calls that are forms of steps, by hand: no backend of ours.
    GrpcUnary,
}

impl Bridge {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Echo, Self::Embedded, Self::Shm, Self::Grpc, Self::GrpcUnary];

    /// Whether the model runs in a process of its own.
    pub fn has_process(self) -> bool {
        matches!(self, Self::Shm | Self::Grpc | Self::GrpcUnary)
    }
}

/// One bridge: makes backends for the cases.
pub trait Subject {
    /// Which one.
    fn bridge(&self) -> Bridge;

    /// A backend that has not been started. One with Python in it loads [`Model::load_config`] with [`python_path`] at the head of `sys.path`.
    fn backend(&self, model: &Model) -> Box<dyn Backend>;

    /// The longest record that it carries, if there is a limit; at most 1 MiB, so that the suite can reach it.
    fn max_record_bytes(&self) -> Option<usize>;

    /// Runs a case; for who needs a process of its own for each. The name of the case's test is the case's.
    fn isolated(&self, _case: &str, run: &dyn Fn()) {
        run();
    }
}

/// Something that every bridge does in the same way.
pub struct Case {
    /// Also the name of its test.
    pub name: &'static str,
    run: fn(&dyn Subject),
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Runs the case of this name, or says why not.
#[expect(clippy::print_stderr, reason = "for whoever reads the tests' output")]
pub fn run(subject: &dyn Subject, name: &str) {
    let case = CASES.iter().find(|case| case.name == name).expect("the macro knows no other names");
    match skips::reason(subject.bridge(), case.name) {
        Some(reason) => eprintln!("{name} is skipped by {:?}: {reason}", subject.bridge()),
        None => subject.isolated(name, &|| (case.run)(subject)),
    }
}

macro_rules! cases {
    ($d:tt $($module:ident { $($name:ident)* })*) => {
        /// Every case.
        pub const CASES: &[Case] = &[$($(Case { name: stringify!($name), run: $module::$name }),*),*];

        /// Makes a test of each case. Takes an expression that gives a [`conformance::Subject`](crate::conformance::Subject).
        #[macro_export]
        macro_rules! conformance {
            ($d subject:expr) => {$($(
                #[test]
                fn $name() {
                    $crate::conformance::run(&$d subject, stringify!($name));
                }
            )*)*};
        }
    };
}

// The one list.
cases! { $
    load {
        a_model_loads_and_says_what_it_is
        progress_is_told_before_ready
        a_step_before_ready_is_refused
        a_backend_starts_once
        a_backend_that_was_never_started_can_be_closed
        a_load_that_raises_says_why
        a_load_that_exits_is_an_error
        a_package_that_is_missing_is_named
        a_class_that_cannot_be_loaded_says_why
    }
    steps {
        steps_are_answered_in_order_two_at_a_time
        sequences_enter_are_cancelled_and_enter_again
        log_probabilities_come_with_their_tokens
        a_step_out_of_turn_fails_alone
        a_third_step_in_flight_is_refused
        a_big_payload_passes_or_is_refused_with_the_limit
        an_exception_fails_its_step_alone
        what_a_model_writes_is_logged_with_its_request
        a_slow_step_is_waited_for_and_may_be_aborted
        an_answer_that_cannot_be_is_no_answer
        what_a_model_keeps_of_a_step_never_changes
    }
    forwards {
        inputs_are_answered_each_in_order
        tensors_of_every_kind_cross
        a_big_input_passes_or_is_refused_with_the_limit
        a_big_result_passes_or_is_refused
        an_input_has_an_error_of_its_own
        a_class_that_raises_fails_its_batch_alone
        a_wrong_number_of_results_is_told
        a_step_for_a_class_is_refused
        a_tensor_may_lie_there_already
        what_a_class_keeps_of_tensors_never_changes
    }
    closing {
        closed_comes_once_and_last
        close_while_it_loads
        close_while_it_is_busy_does_not_wait
        close_with_time_lets_the_running_step_end
        a_backend_dropped_without_close_leaves_no_model
        another_backend_follows_a_closed_one
        two_backends_do_not_disturb_each_other
        nothing_is_left_behind
    }
    process {
        an_idle_worker_that_is_killed_is_replaced
        a_busy_worker_that_dies_leaves_its_last_words
        a_crash_in_native_code_tells_where
        a_model_that_ends_the_process_is_replaced
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_skip_has_a_case_and_a_reason_and_every_case_two_bridges() {
        let names: HashSet<_> = CASES.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), CASES.len(), "a name stands twice");
        let mut seen = HashSet::new();
        for skip in SKIPS {
            assert!(skip.reason.split(' ').count() > 3, "{skip:?} has no reason");
            for case in skip.cases {
                assert!(names.contains(case), "{case} is no case");
                for bridge in skip.bridges {
                    assert!(seen.insert((case, *bridge as u8)), "{case} is skipped twice by {bridge:?}");
                }
            }
        }
        for case in CASES {
            let run_by = Bridge::ALL.iter().filter(|bridge| skips::reason(**bridge, case.name).is_none()).count();
            assert!(run_by > 1, "{case:?} belongs to the tests of the bridge that runs it");
        }
    }

    /// A bridge whose tests did not call the macro would pass without a word.
    #[test]
    fn every_bridge_runs_the_suite() {
        for file in [
            "pillion-backend-echo/tests/conformance.rs",
            "pillion-backend-embedded/tests/conformance.rs",
            "pillion-backend-worker/tests/conformance_shm.rs",
            "pillion-backend-worker/tests/conformance_grpc.rs",
            "pillion-backend-worker/tests/conformance_unary.rs",
        ] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains("pillion_testkit::conformance!("), "{file}");
        }
    }
}
