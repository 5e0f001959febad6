//! Runs the model in a supervised Python process.
//!
//! [`WorkerBackend`] is the engine's handle. A supervisor thread starts the process, shakes hands with it, watches it and starts it anew
//! when it dies; steps go past it, through shared memory, and their answers come back on a thread of their own. Nothing here knows
//! what a step means, and only `process`, `shm` and one file of `grpc` hold unsafe code.

#[cfg(target_os = "linux")]
mod backend;
#[cfg(not(target_os = "linux"))]
#[path = "backend_unsupported.rs"]
mod backend;
#[cfg(target_os = "linux")]
mod control;
#[cfg(target_os = "linux")]
mod flight;
#[cfg(target_os = "linux")]
mod grpc;
#[cfg(target_os = "linux")]
mod lines;
#[cfg(target_os = "linux")]
mod link;
#[cfg(target_os = "linux")]
mod mailbox;
mod options;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod restart;
#[cfg(target_os = "linux")]
mod session;
#[cfg(target_os = "linux")]
mod shm;
#[cfg(target_os = "linux")]
mod supervisor;
#[cfg(target_os = "linux")]
mod verdict;

pub use backend::WorkerBackend;
pub use options::{Attach, RestartOptions, SuperviseOptions, Transport, WorkerOptions};
