//! The cases of `orphans/`, over gRPC.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests; clippy knows only functions that are marked as such")]

mod common;
mod orphans;

use pillion_backend_worker::Transport;

pub(crate) const TRANSPORT: Transport = Transport::Grpc;
