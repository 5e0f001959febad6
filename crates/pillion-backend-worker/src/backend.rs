//! The engine's handle to a supervised worker.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use pillion_core::{
    Backend, BackendEvent, BackendEvents, Error, ErrorCode, Result, WorkerStatus,
    forward::{ForwardBatch, TensorStore},
    step::Step,
};

use crate::{
    flight::{Flight, MAX_IN_FLIGHT},
    link::{Link, lock},
    mailbox::Mailbox,
    options::{Transport, WorkerOptions},
    shm::{self, ReaderPlace},
    supervisor::Supervisor,
};

/// Runs the model in a Python process of its own.
///
/// The process dies with this one, however that ends. If it dies alone, [`pillion_core::BackendEvent::WorkerLost`] tells why and, unless
/// the restarts are used up, a new [`pillion_core::BackendEvent::Ready`] follows; in the end [`pillion_core::BackendEvent::LoadFailed`].
/// Dropped without [`Backend::close`] it kills the process.
#[derive(Debug)]
pub struct WorkerBackend {
    options: Option<WorkerOptions>,
    shared: Arc<Shared>,
    mailbox: Option<Arc<Mailbox>>,
    /// Whether the engine has asked for its end.
    is_closed: bool,
}

/// What the engine's thread and the supervisor share. Each lock is held for a copy or a swap, never while anything waits.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Present while steps may come.
    pub(crate) link: Mutex<Option<Link>>,
    /// The steps under way in the present process.
    pub(crate) flight: Arc<Mutex<Flight>>,
    pub(crate) status: Mutex<Status>,
    /// Present while answers may come that the engine's own thread takes.
    pub(crate) reader: ReaderPlace,
}

/// The worker as the supervisor sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    /// 0 while there is none.
    pub(crate) pid: u32,
    pub(crate) state: WorkerState,
    pub(crate) restarts: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum WorkerState {
    #[default]
    Starting,
    Ready,
    Lost,
    Closed,
}

impl WorkerBackend {
    /// Nothing runs before [`Backend::start`].
    pub fn new(options: WorkerOptions) -> Self {
        Self { options: Some(options), shared: Arc::default(), mailbox: None, is_closed: false }
    }

    fn no_worker(&self) -> Error {
        if self.is_closed {
            Error::new(ErrorCode::Closed, "the backend has been closed")
        } else {
            Error::new(ErrorCode::WorkerLost, "there is no worker at this moment")
        }
    }
}

impl Backend for WorkerBackend {
    fn start(&mut self, events: BackendEvents) -> Result<()> {
        let options = self.options.take();
        let options =
            options.ok_or_else(|| Error::internal("the worker backend was started twice, or after it was closed"))?;
        if options.transport == Transport::Shm && options.attach.is_none() {
            shm::check()?;
        }
        let mailbox = Arc::new(Mailbox::new()?);
        let supervisor = Supervisor::new(options, Arc::clone(&self.shared), Arc::clone(&mailbox), events);
        thread::Builder::new()
            .name("pillion-worker".to_owned())
            .spawn(move || supervisor.run())
            .map_err(|e| Error::new(ErrorCode::OutOfMemory, "the supervisor could not be started").with_cause(e))?;
        self.mailbox = Some(mailbox);
        Ok(())
    }

    fn submit(&mut self, step: &Step) -> Result<()> {
        match &mut *lock(&self.shared.link) {
            Some(link) => link.submit(step),
            None => Err(self.no_worker()),
        }
    }

    fn submit_forward(&mut self, batch: &ForwardBatch) -> Result<()> {
        match &mut *lock(&self.shared.link) {
            Some(link) => link.submit_forward(batch),
            None => Err(self.no_worker()),
        }
    }

    fn tensor_store(&self) -> Option<Arc<dyn TensorStore>> {
        lock(&self.shared.link).as_ref().and_then(Link::tensor_store)
    }

    fn rung(&mut self, count: u32, take: &mut dyn FnMut(BackendEvent)) {
        let mut place = lock(&self.shared.reader);
        let Some(reader) = &mut *place else { return };
        if let Err(error) = reader.rung(count, take) {
            *place = None;
            if let Some(mailbox) = &self.mailbox {
                mailbox.broken(error);
            }
        }
    }

    fn max_in_flight(&self) -> usize {
        MAX_IN_FLIGHT
    }

    fn abort(&mut self) {
        if let Some(mailbox) = &self.mailbox {
            mailbox.abort();
        }
    }

    fn close(&mut self, timeout: Duration) {
        self.is_closed = true;
        if let Some(mailbox) = &self.mailbox {
            mailbox.close(timeout);
        } else {
            self.options = None;
            lock(&self.shared.status).state = WorkerState::Closed;
        }
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        let status = lock(&self.shared.status).clone();
        let state = match status.state {
            WorkerState::Starting => "starting",
            WorkerState::Ready if lock(&self.shared.flight).len() > 0 => "busy",
            WorkerState::Ready => "ready",
            WorkerState::Lost => "lost",
            WorkerState::Closed => "closed",
        };
        vec![WorkerStatus {
            pid: status.pid,
            state: state.to_owned(),
            restarts: status.restarts,
            rss_bytes: resident_bytes(status.pid).unwrap_or(0),
        }]
    }
}

impl Drop for WorkerBackend {
    fn drop(&mut self) {
        if let Some(mailbox) = &self.mailbox {
            mailbox.close(Duration::ZERO);
        }
    }
}

fn resident_bytes(pid: u32) -> Option<u64> {
    if pid == 0 {
        return None;
    }
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
