//! A process that is not our child, by its number. That it has ended is looked for; a worker's connection as a rule says so before.

use std::{io, time::Duration};

use rustix::{
    io::Errno,
    process::{Pid, Signal},
};
use tokio::time::sleep;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Stranger(Pid);

impl Stranger {
    /// An error if it has ended.
    pub(super) fn find(pid: Pid) -> io::Result<Self> {
        if is_there(pid) { Ok(Self(pid)) } else { Err(Errno::SRCH.into()) }
    }

    /// Until it has ended.
    pub(super) async fn ended(&self) {
        while is_there(self.0) {
            sleep(LOOK).await;
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        let _ = rustix::process::kill_process(self.0, signal);
    }
}

/// Another user's is there too.
fn is_there(pid: Pid) -> bool {
    rustix::process::test_kill_process(pid) != Err(Errno::SRCH)
}
