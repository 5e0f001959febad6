//! What the engine says in the log of the requests that met with a failure, by the ids that their callers and the worker's log have too.

use pillion_core::{Error, LogLevel, LogRecord, LogSource};

use super::EngineCore;
use crate::output::EngineOutput;

/// More names than these help nobody.
const MAX_NAMED: usize = 8;

impl EngineCore {
    /// The callers' names for runs that are still here.
    pub(super) fn names_of(&self, runs: &[u32]) -> Vec<String> {
        runs.iter().filter_map(|run| self.runs.get(run)).map(|run| run.request_id().to_owned()).collect()
    }

    /// A step or a forward has failed. Its callers get the error itself, and the worker has said more where the model raised.
    pub(super) fn tell_failed(&mut self, what: &str, error: &Error, names: &[String]) {
        self.tell(LogLevel::Info, format!("{what} failed: {}: {}", error.code(), error.message()), names);
    }

    /// One line, which names the requests that it is about.
    pub(super) fn tell(&mut self, level: LogLevel, message: String, names: &[String]) {
        let shown = &names[..names.len().min(MAX_NAMED)];
        let more =
            if names.len() > MAX_NAMED { format!(" and {} more", names.len() - MAX_NAMED) } else { String::new() };
        let message =
            if names.is_empty() { message } else { format!("{message}; requests: {}{more}", shown.join(", ")) };
        let request_id = if let [name] = names { Some(name.clone()) } else { None };
        self.outputs.push(EngineOutput::Log(LogRecord { level, source: LogSource::Rust, message, request_id }));
    }
}
