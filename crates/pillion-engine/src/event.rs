//! The closed list of what can happen to an engine.

use std::time::Instant;

use pillion_core::{BackendEvent, Sequence, forward::ForwardItem};

/// One thing that happened, in the engine's one queue.
#[derive(Debug)]
pub(crate) enum EngineEvent {
    /// A request was tokenized and waits for a slot.
    Add(Box<NewRun>),
    /// The inputs of a call are ready and wait for a forward pass.
    AddCall(Box<NewCall>),
    /// A backend says something.
    Backend(BackendEvent),
    /// Callers left something in `Admission`.
    Wake,
}

/// A tokenized request.
#[derive(Debug)]
pub(crate) struct NewRun {
    pub(crate) run: u32,
    pub(crate) arrival: u64,
    pub(crate) sequence: Sequence,
    /// When the caller called.
    pub(crate) received: Instant,
    /// When its ids were known.
    pub(crate) tokenized: Instant,
    pub(crate) deadline: Option<Instant>,
}

/// A call of `predict` whose inputs are ready.
#[derive(Debug)]
pub(crate) struct NewCall {
    pub(crate) run: u32,
    pub(crate) arrival: u64,
    pub(crate) request_id: String,
    pub(crate) items: Vec<ForwardItem>,
    pub(crate) deadline: Option<Instant>,
}
