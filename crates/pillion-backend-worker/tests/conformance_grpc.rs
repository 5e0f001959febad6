//! The cases that every bridge passes, over gRPC.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests; clippy knows only functions that are marked as such")]

mod common;

use common::Subject;
use pillion_backend_worker::Transport;
use pillion_testkit::conformance::Bridge;

pub(crate) const TRANSPORT: Transport = Transport::Grpc;

pillion_testkit::conformance!(Subject(Bridge::Grpc));
