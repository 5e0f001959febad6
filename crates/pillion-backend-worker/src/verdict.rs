//! What callers are told of a worker that did not do what it should.

use pillion_core::{Error, ErrorCode, Result, WorkerExit};

/// What the requests in flight are told.
pub(crate) fn lost(failure: Option<Error>, exit: WorkerExit) -> Error {
    match failure {
        Some(cause) => Error::new(ErrorCode::WorkerLost, format!("the worker was stopped: {}", cause.message()))
            .with_cause(format_args!("{}: {}", cause.code(), cause.message())),
        None => Error::new(ErrorCode::WorkerLost, format!("the worker ended: {}", describe(&exit))),
    }
    .with_worker(exit)
}

/// What the caller of load is told: the worker's own words, or our reason for ending it, or how it ended.
pub(crate) fn not_ready(failure: Option<Error>, exit: WorkerExit) -> Error {
    failure
        .unwrap_or_else(|| {
            let message = format!("the worker ended before it was ready: {}", describe(&exit));
            let error = Error::new(ErrorCode::WorkerLost, message);
            match exit.stderr_tail.lines().last() {
                Some(last) => error.with_cause(last),
                None => error,
            }
        })
        .with_worker(exit)
}

fn describe(exit: &WorkerExit) -> String {
    match (&exit.exit_signal, exit.exit_code) {
        (Some(signal), _) if signal == "SIGKILL" => {
            "SIGKILL, which the system also sends when memory has run out".to_owned()
        }
        (Some(signal), _) => signal.clone(),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "its exit status is not known".to_owned(),
    }
}

pub(crate) fn check_version<T: PartialEq + std::fmt::Display + ?Sized>(what: &str, ours: &T, theirs: &T) -> Result<()> {
    if ours == theirs {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::VersionMismatch,
        format!("the worker's {what} version is {theirs}, this side has {ours}"),
    )
    .with_remedy("reinstall the npm package, so that its native and its Python files are of one version"))
}

pub(crate) fn no_socket(error: &std::io::Error) -> Error {
    Error::new(ErrorCode::BridgeUnavailable, format!("a socket to the worker cannot be made: {error}"))
        .with_remedy("raise the limit on open files")
}
