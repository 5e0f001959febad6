//! What stands in for shared memory where there are no memory files and eventfds: types without values, and a refusal.

use std::{
    os::fd::BorrowedFd,
    sync::{Arc, Mutex},
};

use pillion_core::{
    BackendEvent, BackendEvents, Error, ErrorCode, Result,
    forward::{ForwardBatch, TensorMemory, TensorStore},
    step::Step,
};
use serde::{Deserialize, Serialize};

use crate::{link::Arrivals, mailbox::Mailbox, options::WorkerOptions};

pub(crate) fn check() -> Result<()> {
    Err(Error::new(
        ErrorCode::BridgeUnavailable,
        "the shm bridge runs on Linux only: this system lacks memory files and eventfds",
    )
    .with_remedy("use the grpc or the embedded bridge"))
}

#[derive(Debug)]
pub(crate) enum Rings {}
#[derive(Debug)]
pub(crate) enum Sender {}
#[derive(Debug)]
pub(crate) enum Receiver {}
#[derive(Debug)]
pub(crate) enum Reader {}
#[derive(Debug)]
pub(crate) enum Inputs {}
#[derive(Debug)]
pub(crate) enum Doorbell {}
/// The end of a process is seen by the wait for it.
#[derive(Debug)]
pub(crate) enum Life {}
#[derive(Debug)]
pub(crate) enum Watch {}

pub(crate) type ReaderPlace = Arc<Mutex<Option<Reader>>>;

/// Told to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RingShape;
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoolShape;

impl Rings {
    pub(crate) fn new(_: &WorkerOptions, _: &BackendEvents) -> Result<Self> {
        check().and_then(|()| Err(Error::internal("shared memory without shared memory")))
    }

    pub(crate) fn shapes(&self) -> (RingShape, Option<PoolShape>) {
        match *self {}
    }

    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match *self {}
    }

    pub(crate) fn step_bell(&self) -> Result<Doorbell> {
        match *self {}
    }

    pub(crate) fn open(self, _: Arrivals, _: Arc<Mailbox>, _: &ReaderPlace) -> Result<(Sender, Receiver)> {
        match self {}
    }
}

impl Sender {
    pub(crate) fn submit(&mut self, _: &Step) -> Result<()> {
        match *self {}
    }

    pub(crate) fn submit_forward(&mut self, _: &ForwardBatch) -> Result<()> {
        match *self {}
    }

    pub(crate) fn inputs(&self) -> Option<Inputs> {
        match *self {}
    }

    pub(crate) fn end(self) -> Result<()> {
        match self {}
    }
}

impl TensorStore for Inputs {
    fn hold(&self, _: &[u8]) -> Option<Arc<dyn TensorMemory>> {
        match *self {}
    }
}

impl Receiver {
    pub(crate) fn stop(self) -> Option<Reader> {
        match self {}
    }
}

impl Reader {
    pub(crate) fn rung(&mut self, _: u32, _: &mut dyn FnMut(BackendEvent)) -> Result<()> {
        match *self {}
    }

    pub(crate) fn take_rest(&mut self) {
        match *self {}
    }
}

impl Doorbell {
    pub(crate) fn is_full(&self) -> bool {
        match *self {}
    }

    pub(crate) fn silence(&self) {
        match *self {}
    }
}

impl Life {
    #[expect(clippy::unnecessary_wraps, reason = "it can fail where it can be")]
    pub(crate) fn new() -> Result<Option<Self>> {
        Ok(None)
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        match *self {}
    }

    pub(crate) fn watch(self, _: impl FnOnce() + Send + 'static) -> Result<Option<Watch>> {
        match self {}
    }
}

impl Watch {
    pub(crate) fn stop(self) {
        match self {}
    }
}
