//! The contract between the engine and whatever runs the forward pass.

#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorCode, Result},
    forward::{ForwardBatch, ForwardOutput, TensorStore},
    info::{WorkerInfo, WorkerStatus},
    step::{Step, StepOutput},
};

/// Runs forward passes somewhere: in this process, in another, on another machine.
///
/// All methods are called by the engine's one thread, return at once and never wait for Python. What happens comes back as a
/// [`BackendEvent`] in the engine's own queue, so that its thread never waits on two things.
pub trait Backend: Send {
    /// Begins to load. Ends in one [`BackendEvent::Ready`] or one [`BackendEvent::LoadFailed`], or without either in
    /// [`BackendEvent::Closed`] if it is closed before. Refused the second time, and after [`Backend::close`].
    fn start(&mut self, events: BackendEvents) -> Result<()>;

    /// Hands over one step. Steps are answered in the order in which they came, each with one [`BackendEvent::StepDone`], unless
    /// [`BackendEvent::WorkerLost`] comes instead. Refused with [`ErrorCode::WorkerLost`] if the worker has gone and the event that says so is
    /// on its way.
    fn submit(&mut self, step: &Step) -> Result<()>;

    /// Hands over one forward. Answered by one [`BackendEvent::ForwardDone`], in one order with the steps, unless
    /// [`BackendEvent::WorkerLost`] comes instead. Refused by a backend whose models only generate.
    fn submit_forward(&mut self, batch: &ForwardBatch) -> Result<()> {
        let message = format!("forward {} came to a backend that runs steps only", batch.forward_id);
        Err(Error::new(ErrorCode::Unsupported, message))
    }

    /// Where tensors can be put before they are submitted, if there is such memory. Asked for after each [`BackendEvent::Ready`]; it is of use until
    /// that worker has gone.
    fn tensor_store(&self) -> Option<Arc<dyn TensorStore>> {
        None
    }

    /// Takes in what another process has announced at [`BackendEvents::bell`]: up to `count` answers, in the place of as many events.
    fn rung(&mut self, count: u32, take: &mut dyn FnMut(BackendEvent)) {
        let _ = (count, take);
    }

    /// How many steps and forwards together may be submitted and unanswered: 1 or 2.
    fn max_in_flight(&self) -> usize;

    /// Asks the worker to cut the running step short where it can. The step is answered all the same.
    fn abort(&mut self);

    /// Unloads and ends within about `timeout`. Sends [`BackendEvent::Closed`] when done, if it was started, and nothing after that. Steps
    /// under way may be answered before it or not at all. Calling it twice is fine; what is submitted afterwards is refused with
    /// [`ErrorCode::Closed`].
    fn close(&mut self, timeout: Duration);

    /// The workers as they are now.
    fn workers(&self) -> Vec<WorkerStatus>;
}

/// What a backend tells the engine.
#[derive(Debug)]
pub enum BackendEvent {
    /// A part of loading was done.
    Progress(Progress),
    /// Loading ended well.
    Ready(Box<WorkerInfo>),
    /// Loading failed, or a lost worker will not be started again; the backend is of no further use.
    LoadFailed(Error),
    /// A step was answered. An error inside it concerns the rows of that step.
    StepDone(StepOutput),
    /// A forward was answered. An error inside it concerns the items of that forward.
    ForwardDone(ForwardOutput),
    /// The worker said something.
    Log(LogRecord),
    /// The worker ended or cannot be trusted any more; steps and forwards in flight will not be answered. [`Self::Ready`] follows if another took its place, with
    /// empty slots, else [`Self::LoadFailed`].
    WorkerLost(Error),
    /// [`Backend::close`] is done.
    Closed,
}

/// Where a backend sends its events; cheap to clone, callable from any thread, never blocks.
#[derive(Clone)]
pub struct BackendEvents {
    send: Arc<dyn Fn(BackendEvent) + Send + Sync>,
    is_awaited: bool,
    #[cfg(unix)]
    bell: Option<Arc<OwnedFd>>,
}

impl BackendEvents {
    /// Wraps the function that takes the events.
    pub fn new(send: impl Fn(BackendEvent) + Send + Sync + 'static) -> Self {
        Self {
            send: Arc::new(send),
            is_awaited: false,
            #[cfg(unix)]
            bell: None,
        }
    }

    /// Another function for the same listener, as somebody in between needs it. Who is in between passes [`Backend::rung`] on too.
    #[must_use]
    pub fn wrap(&self, send: impl Fn(BackendEvent) + Send + Sync + 'static) -> Self {
        Self { send: Arc::new(send), ..self.clone() }
    }

    /// Says that the thread that submits does nothing but wait for events once it has.
    #[must_use]
    pub fn awaited(self) -> Self {
        Self { is_awaited: true, ..self }
    }

    /// Names the eventfd at which the thread that submits waits. In place of an event of this process, another one may then add 1 to it for
    /// each answer, and [`Backend::rung`] is called; what others add is a multiple of 2^32.
    #[cfg(unix)]
    #[must_use]
    pub fn with_bell(self, bell: Option<Arc<OwnedFd>>) -> Self {
        Self { bell, ..self }
    }

    /// The eventfd at which the thread that submits waits, if it does so.
    #[cfg(unix)]
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_deref().map(AsFd::as_fd)
    }

    /// Whether the thread that submits does nothing but wait for events once it has.
    pub fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// Sends one event. After the engine has gone this does nothing.
    pub fn send(&self, event: BackendEvent) {
        (self.send)(event);
    }
}

impl std::fmt::Debug for BackendEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BackendEvents")
    }
}

/// How far loading has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done: `python`, `import`, `weights`, `check`, `warmup`.
    pub stage: String,
    /// How much of it is done, in the stage's own unit.
    pub done: f64,
    /// How much there is to do, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<f64>,
}

/// How serious a log record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the usual four")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// Which side spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "names of the two sides")]
pub enum LogSource {
    Rust,
    Python,
}

/// One line for the user's logger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogRecord {
    /// How serious.
    pub level: LogLevel,
    /// Which side spoke.
    pub source: LogSource,
    /// The text.
    pub message: String,
    /// The request that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}
