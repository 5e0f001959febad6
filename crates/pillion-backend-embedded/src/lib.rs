//! Runs the model in a CPython inside this process.
//!
//! The interpreter is found ([`discover`]), asked what it is in a child process ([`probe`]), judged ([`choose`], pure), loaded
//! together with the bridge ([`loader`], the only unsafe code) and run on one thread of its own ([`python_thread`]) that every engine
//! of the process shares. It lives as long as the process and is never finalized. Nothing here names a Python symbol at link time, so
//! an artifact with this crate in it loads on a machine without Python; nothing here knows what a step means.

mod backend;
mod choose;
mod client;
mod discover;
mod interpreter;
mod job_queue;
#[cfg(unix)]
mod loader;
#[cfg(not(unix))]
#[path = "loader_unsupported.rs"]
mod loader;
mod probe;
mod python_thread;
mod run_bounded;
mod survey;
mod tensors;

pub use backend::{EmbeddedBackend, EmbeddedOptions};
pub use discover::Source;
pub use interpreter::bridge_library;
pub use python_thread::{shutdown, test_panic, time_calls};
pub use survey::{CandidateReport, Survey, SurveyOptions, find_for_process, survey};

/// The bridge's file name on this system; it lies beside the shared object that this crate is linked into.
pub const BRIDGE_FILE: &str = if cfg!(windows) {
    "pillion_bridge.dll"
} else if cfg!(target_os = "macos") {
    "libpillion_bridge.dylib"
} else {
    "libpillion_bridge.so"
};
