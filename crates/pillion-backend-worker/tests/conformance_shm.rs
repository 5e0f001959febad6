//! The cases that every bridge passes, over shared memory.

#![cfg(all(target_os = "linux", not(feature = "portable")))]
#![expect(clippy::unwrap_used, reason = "tests; clippy knows only functions that are marked as such")]

mod common;

use common::Subject;
use pillion_backend_worker::Transport;
use pillion_testkit::conformance::Bridge;

pub(crate) const TRANSPORT: Transport = Transport::Shm;

pillion_testkit::conformance!(Subject(Bridge::Shm));
