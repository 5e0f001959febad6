//! gRPC: the contract of `proto/worker.proto` over a Unix socket. Everything asynchronous of this crate is in here.
//!
//! The hot path is one `Steps` stream for as long as the engine has the worker. [`StepStream`] carries it on a thread of its own, for a worker
//! that is a child and is supervised through its control socket; [`attach`] is the whole life with a worker that somebody else started.

mod attach;
mod client;
mod detached;
mod folder;
mod messages;
mod ready;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod stranger;
#[cfg(not(all(target_os = "linux", not(feature = "portable"))))]
#[path = "grpc/stranger_portable.rs"]
mod stranger;
mod stream;

use pillion_core::{Error, ErrorCode, Result};
use tokio::runtime::{Builder, Runtime};

pub(crate) use attach::run as attach;
pub(crate) use folder::SocketFolder;
pub(crate) use stream::{StepSender, StepStream, Target};

/// The messages and the client, generated from the `.proto` file; a test keeps them fresh.
#[expect(
    clippy::doc_markdown,
    clippy::struct_field_names,
    clippy::trivially_copy_pass_by_ref,
    unreachable_pub,
    reason = "generated"
)]
mod proto {
    include!("grpc/worker.v1.rs");
}

/// One thread's worth of tokio.
fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().map_err(|e| {
        Error::new(ErrorCode::BridgeUnavailable, format!("gRPC cannot be set up: {e}"))
            .with_remedy("raise the limit on open files")
    })
}
