//! What stands in for the worker backend where there are no Unix sockets to pass descriptors and steps over.

use std::time::Duration;

use pillion_core::{
    Backend, BackendEvent, BackendEvents, Error, ErrorCode, Result, WorkerStatus, forward::ForwardBatch, step::Step,
};

use crate::options::WorkerOptions;

/// Refuses to start, over shared memory and over gRPC.
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
        Err(refused())
    }

    fn submit(&mut self, _: &Step) -> Result<()> {
        Err(refused())
    }

    fn submit_forward(&mut self, _: &ForwardBatch) -> Result<()> {
        Err(refused())
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

fn refused() -> Error {
    Error::new(ErrorCode::BridgeUnavailable, "the bridges shm and grpc need Unix sockets, which this system lacks")
        .with_remedy("on Windows run in WSL 2")
}
