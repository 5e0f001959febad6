//! What other threads tell the supervisor. It waits on a descriptor beside others, so this is a set of flags and a bell.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pillion_core::{Error, ErrorCode, Result};

/// Bounded by its nature: a second message of a kind adds nothing to the first.
#[derive(Debug)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    bell: Bell,
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
        Ok(Self { mail: Mutex::default(), bell: Bell::new()? })
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

    /// Never waits: without mail it gives none.
    pub(crate) fn take(&self) -> Mail {
        self.bell.silence();
        std::mem::take(&mut *self.lock())
    }

    fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.lock());
        self.bell.ring();
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pair of sockets, which every Unix has: readable from a ring until it is silenced.
#[derive(Debug)]
struct Bell {
    rope: UnixStream,
    ear: UnixStream,
}

impl Bell {
    fn new() -> Result<Self> {
        let bell = UnixStream::pair().and_then(|(rope, ear)| {
            rope.set_nonblocking(true)?;
            ear.set_nonblocking(true)?;
            Ok(Self { rope, ear })
        });
        bell.map_err(|e| {
            Error::new(ErrorCode::BridgeUnavailable, format!("a pair of sockets cannot be made: {e}"))
                .with_remedy("raise the limit on open files, or use the embedded bridge")
        })
    }

    fn ring(&self) {
        // Only a bell that is full of rings, and so has not been heard yet, takes no more.
        while matches!((&self.rope).write(&[1]), Err(e) if e.kind() == io::ErrorKind::Interrupted) {}
    }

    fn silence(&self) {
        let mut rings = [0; 64];
        loop {
            match (&self.ear).read(&mut rings) {
                Ok(n) if n == rings.len() => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.ear.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_before_anybody_listens_is_told_at_once() {
        let mailbox = Mailbox::new().unwrap();
        // More rings than a socket holds.
        for n in 0..100_000 {
            mailbox.close(Duration::from_secs(100_000 - n));
        }
        mailbox.abort();
        let mail = mailbox.take();
        assert!(mail.abort && mail.close == Some(Duration::from_secs(1)), "{mail:?}");
        let mail = mailbox.take();
        assert!(!mail.abort && mail.close.is_none(), "{mail:?}");
        let mut byte = [0];
        assert_eq!((&mailbox.bell.ear).read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        mailbox.ending();
        assert_eq!((&mailbox.bell.ear).read(&mut byte).unwrap(), 1);
    }
}
