//! The cases of `cases/`, over gRPC.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests; clippy knows only functions that are marked as such")]

mod cases;
mod common;

use pillion_backend_worker::Transport;

pub(crate) const TRANSPORT: Transport = Transport::Grpc;
