//! The cases of `orphans/`, over shared memory.

#![cfg(all(target_os = "linux", not(feature = "portable")))]
#![expect(clippy::unwrap_used, reason = "tests; clippy knows only functions that are marked as such")]

mod common;
mod orphans;

use pillion_backend_worker::Transport;

pub(crate) const TRANSPORT: Transport = Transport::Shm;
