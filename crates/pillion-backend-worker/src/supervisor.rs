//! The thread that keeps a worker alive: one session after the other, until it is told to end or the restarts are used up.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use pillion_core::{BackendEvent, BackendEvents, Error, LogLevel, LogRecord, LogSource};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::{
    backend::{Shared, Status, WorkerState},
    grpc,
    link::lock,
    mailbox::Mailbox,
    options::WorkerOptions,
    restart::Restarts,
    session::{Context, Session, SessionEnd},
};

/// Owns the process. Its thread must outlive it, since on Linux the process dies with the thread that started it.
#[derive(Debug)]
pub(crate) struct Supervisor {
    options: WorkerOptions,
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    events: BackendEvents,
}

impl Supervisor {
    pub(crate) fn new(
        options: WorkerOptions,
        shared: Arc<Shared>,
        mailbox: Arc<Mailbox>,
        events: BackendEvents,
    ) -> Self {
        Self { options, shared, mailbox, events }
    }

    /// Until the backend is closed.
    pub(crate) fn run(self) {
        let failed = match catch_unwind(AssertUnwindSafe(|| self.keep_alive())) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            // Whatever process there was dies with this thread.
            Err(payload) => Some(Error::from_panic(&*payload)),
        };
        if let Some(error) = failed {
            *lock(&self.shared.link) = None;
            self.state(|status| status.state = WorkerState::Lost);
            self.events.send(BackendEvent::LoadFailed(error));
            while !self.is_closed_within(None) {}
        }
        self.state(|status| status.state = WorkerState::Closed);
        self.events.send(BackendEvent::Closed);
    }

    /// An error once there will be no worker any more.
    fn keep_alive(&self) -> Result<(), Error> {
        let context =
            Context { options: &self.options, shared: &self.shared, mailbox: &self.mailbox, events: &self.events };
        let mut restarts = Restarts::new(self.options.supervise.restart.clone());
        let mut was_ready = false;
        loop {
            let end = match &self.options.attach {
                Some(place) => grpc::attach(context, place),
                None => Session::run(context),
            };
            let error = match end {
                SessionEnd::Closed => return Ok(()),
                SessionEnd::NotReady(error) if !was_ready => return Err(error),
                SessionEnd::Stuck { error, is_told } => {
                    if was_ready && !is_told {
                        self.events.send(BackendEvent::WorkerLost(error.clone()));
                    }
                    // Not to start another while its memory may still be taken.
                    return Err(error);
                }
                SessionEnd::NotReady(error) => {
                    self.warn(format!("the worker could not be started anew: {error}"));
                    error
                }
                SessionEnd::Lost { error, is_told } => {
                    was_ready = true;
                    if is_told {
                        self.warn(error.message().to_owned());
                    } else {
                        self.events.send(BackendEvent::WorkerLost(error.clone()));
                    }
                    error
                }
            };
            let Some(wait) = restarts.next(Instant::now()) else { return Err(error) };
            if self.is_closed_within(Some(wait)) {
                return Ok(());
            }
            self.state(|status| {
                *status = Status { pid: 0, state: WorkerState::Starting, restarts: restarts.total() };
            });
        }
    }

    /// Whether the backend is closed before the time is over.
    fn is_closed_within(&self, wait: Option<Duration>) -> bool {
        let until = wait.map(|wait| Instant::now() + wait);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = [PollFd::from_borrowed_fd(self.mailbox.fd(), PollFlags::IN)];
            // An interrupted poll is one in which nothing was ready.
            let is_ready = rustix::event::poll(&mut fds, timeout.as_ref()).is_ok_and(|n| n > 0);
            if is_ready && self.mailbox.take().close.is_some() {
                return true;
            }
        }
    }

    fn warn(&self, message: String) {
        let record = LogRecord { level: LogLevel::Warn, source: LogSource::Rust, message, request_id: None };
        self.events.send(BackendEvent::Log(record));
    }

    fn state(&self, change: impl FnOnce(&mut Status)) {
        change(&mut lock(&self.shared.status));
    }
}
