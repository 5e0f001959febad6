//! The end of the model's process, where it has one.

use pillion_core::{Error, ErrorCode, WorkerExit};

use super::{
    Model, Subject,
    bench::{Bench, does, enters, is_alive},
};

/// Waits for the loss of the process and shows that another takes its place, with empty slots.
fn replaced(bench: &mut Bench, pid: u32) -> (Error, WorkerExit) {
    let error = bench.expect_lost();
    assert_eq!((error.code(), error.is_retryable()), (ErrorCode::WorkerLost, true), "{error}");
    let exit = error.worker().expect("it says how it ended").clone();
    let info = bench.expect_ready();
    assert!(info.pid == bench.pid() && info.pid != pid && !is_alive(pid));
    (error, exit)
}

#[cfg(unix)]
fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is ours");
}

#[cfg(not(unix))]
fn kill(_: u32) {
    panic!("only on Unix do bridges run that have a process");
}

pub(super) fn an_idle_worker_that_is_killed_is_replaced(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    bench.submit(&enters(1, 0, &[7, 8]));
    assert_eq!(bench.expect_step().tokens, [7]);
    for restarts in 1..3 {
        let pid = bench.pid();
        kill(pid);
        let (_, exit) = replaced(&mut bench, pid);
        assert_eq!((exit.exit_signal.as_deref(), exit.exit_code), (Some("SIGKILL"), None));
        assert_eq!(bench.backend.workers()[0].restarts, restarts);
        bench.submit(&enters(2, 0, &[9]));
        assert_eq!(bench.expect_step().tokens, [9]);
    }
    bench.close();
}

pub(super) fn a_busy_worker_that_dies_leaves_its_last_words(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    let pid = bench.pid();
    bench.submit(&does(1, "die"));
    // The loss may be known by now.
    let _ = bench.backend.submit(&enters(2, 0, &[4]));
    let (_, exit) = replaced(&mut bench, pid);
    assert_eq!((exit.exit_signal.as_deref(), exit.exit_code), (Some("SIGKILL"), None));
    assert_eq!(exit.stderr_tail, "last words: grüße");
    bench.round_trip(3);
    bench.close();
}

pub(super) fn a_crash_in_native_code_tells_where(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    let pid = bench.pid();
    bench.submit(&does(1, "crash"));
    let (_, exit) = replaced(&mut bench, pid);
    assert_eq!(exit.exit_signal.as_deref(), Some("SIGSEGV"));
    assert!(exit.stderr_tail.contains("conformance_models.py"), "the Python stack: {}", exit.stderr_tail);
    bench.round_trip(2);
    bench.close();
}

pub(super) fn a_model_that_ends_the_process_is_replaced(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::steps());
    let pid = bench.pid();
    bench.submit(&does(1, "leave"));
    let (error, exit) = replaced(&mut bench, pid);
    assert_eq!((exit.exit_code, exit.exit_signal.as_deref()), (Some(7), None), "{error}");
    bench.round_trip(2);
    bench.close();
    let mut bench = Bench::ready(subject, &Model::Class("Echo"));
    let pid = bench.pid();
    bench.submit_inputs(1, &[r#""leave""#]);
    let (error, exit) = replaced(&mut bench, pid);
    assert_eq!(exit.exit_code, Some(7), "{error}");
    bench.forward_round_trip(2);
    bench.close();
}
