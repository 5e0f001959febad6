//! A process that is not our child, by a descriptor that stays that process's.

use std::{io, os::fd::OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;

use super::ready::watch;

#[derive(Debug)]
pub(super) struct Stranger(AsyncFd<OwnedFd>);

impl Stranger {
    /// Within a runtime. An error if it has ended, or may not be seen.
    pub(super) fn find(pid: Pid) -> io::Result<Self> {
        watch(rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?).map(Self)
    }

    /// Until it has ended.
    pub(super) async fn ended(&self) {
        if self.0.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        let _ = rustix::process::pidfd_send_signal(self.0.get_ref(), signal);
    }
}
