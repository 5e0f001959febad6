//! What stands in for the worker backend where a child cannot be tied to its parent's life.

use std::time::Duration;

use pillion_core::{
    Backend, BackendEvent, BackendEvents, Error, ErrorCode, Result, WorkerStatus, forward::ForwardBatch, step::Step,
};

use crate::options::WorkerOptions;

/// Refuses to start: this system has no memory files and no parent-death signal.
#[derive(Debug)]
pub struct WorkerBackend {
    events: Option<BackendEvents>,
}

impl WorkerBackend {
    /// Nothing runs, before [`Backend::start`] or after.
    pub fn new(_: WorkerOptions) -> Self {
        Self { events: None }
    }
}

impl Backend for WorkerBackend {
    fn start(&mut self, events: BackendEvents) -> Result<()> {
        self.events = Some(events);
        Err(Error::new(ErrorCode::BridgeUnavailable, "worker processes run on Linux only")
            .with_remedy("use the embedded bridge"))
    }

    fn submit(&mut self, _: &Step) -> Result<()> {
        Err(Error::new(ErrorCode::BridgeUnavailable, "worker processes run on Linux only"))
    }

    fn submit_forward(&mut self, _: &ForwardBatch) -> Result<()> {
        Err(Error::new(ErrorCode::BridgeUnavailable, "the shm bridge runs on Linux only"))
    }

    fn max_in_flight(&self) -> usize {
        1
    }

    fn abort(&mut self) {}

    fn close(&mut self, _: Duration) {
        if let Some(events) = self.events.take() {
            events.send(BackendEvent::Closed);
        }
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        Vec::new()
    }
}
