//! Runs the model in a supervised Python process.
//!
//! [`WorkerBackend`] is the engine's handle. A supervisor thread starts the process, shakes hands with it, watches it and starts it anew
//! when it dies; steps go past it, through shared memory or gRPC. Nothing here knows what a step means, and only `process`, `shm` and
//! one file of `grpc` hold unsafe code.
//!
//! Linux has all of it, other Unix systems gRPC alone: `shm_unsupported` and `grpc/stranger_portable` stand in for what they lack. With the
//! feature `portable` Linux goes without too, which is how the tests run that form.

#[cfg(unix)]
mod backend;
#[cfg(not(unix))]
#[path = "backend_unsupported.rs"]
mod backend;
#[cfg(unix)]
mod control;
#[cfg(unix)]
mod flight;
#[cfg(unix)]
mod grpc;
#[cfg(unix)]
mod lines;
#[cfg(unix)]
mod link;
#[cfg(unix)]
mod mailbox;
mod options;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod restart;
#[cfg(unix)]
mod session;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod shm;
#[cfg(all(unix, not(all(target_os = "linux", not(feature = "portable")))))]
#[path = "shm_unsupported.rs"]
mod shm;
#[cfg(unix)]
mod supervisor;
#[cfg(unix)]
mod verdict;

pub use backend::WorkerBackend;
pub use options::{Attach, RestartOptions, SuperviseOptions, Transport, WorkerOptions};
