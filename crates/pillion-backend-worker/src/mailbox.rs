//! What other threads tell the supervisor. It waits on a descriptor beside others, so this is a set of flags and a bell.

use std::{
    os::fd::BorrowedFd,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pillion_core::{Error, Result};

use crate::shm::Doorbell;

/// Bounded by its nature: a second message of a kind adds nothing to the first.
#[derive(Debug)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    bell: Doorbell,
}

/// All that was told since the last time.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    /// End the worker within so long.
    pub(crate) close: Option<Duration>,
    /// Cut the running step short.
    pub(crate) abort: bool,
    /// The process has begun to end.
    pub(crate) ending: bool,
    /// The process has ended.
    pub(crate) exited: bool,
    /// The worker gave an answer that cannot be.
    pub(crate) broken: Option<Error>,
    /// The worker's answers have ended, as they do when its process ends.
    pub(crate) hung_up: Option<Error>,
}

impl Mailbox {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { mail: Mutex::default(), bell: Doorbell::new()? })
    }

    /// The shorter of two timeouts holds.
    pub(crate) fn close(&self, timeout: Duration) {
        self.put(|mail| mail.close = Some(mail.close.map_or(timeout, |t| t.min(timeout))));
    }

    pub(crate) fn abort(&self) {
        self.put(|mail| mail.abort = true);
    }

    pub(crate) fn ending(&self) {
        self.put(|mail| mail.ending = true);
    }

    pub(crate) fn exited(&self) {
        self.put(|mail| mail.exited = true);
    }

    /// The first of several errors is the one that says why.
    pub(crate) fn broken(&self, error: Error) {
        self.put(|mail| {
            mail.broken.get_or_insert(error);
        });
    }

    /// The first says why.
    pub(crate) fn hung_up(&self, error: Error) {
        self.put(|mail| {
            mail.hung_up.get_or_insert(error);
        });
    }

    /// A new process begins: what was told of the one before means nothing any more.
    pub(crate) fn forget_process(&self) {
        let mut mail = self.lock();
        mail.ending = false;
        mail.exited = false;
        mail.broken = None;
        mail.hung_up = None;
        mail.abort = false;
    }

    /// Readable while there is mail.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.bell.fd()
    }

    /// To be called once the descriptor is readable.
    pub(crate) fn take(&self) -> Mail {
        self.bell.wait();
        std::mem::take(&mut *self.lock())
    }

    /// Whether [`Self::take`] would not wait.
    pub(crate) fn has_mail(&self) -> bool {
        self.bell.has_rung()
    }

    fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.lock());
        self.bell.ring();
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
