//! The `Steps` stream to a worker that is our child, on a thread of its own.

use std::{
    ops::RangeInclusive,
    path::PathBuf,
    sync::{Arc, mpsc::sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use pillion_core::{Error, ErrorCode, Result, forward::ForwardBatch, step::Step};
use tokio::sync::{mpsc, oneshot};
use tonic::{Streaming, codegen::tokio_stream::wrappers::UnboundedReceiverStream};

use super::{
    client::{CALL, Client, Failure, failure},
    messages::{self, Form},
    proto,
};
use crate::{
    link::{Arrivals, Rest},
    mailbox::Mailbox,
};

/// What the last answers of a process that has ended may take to be read.
const REST_WAIT: Duration = Duration::from_secs(1);

/// Where a worker listens, and who it must be.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) path: PathBuf,
    /// The process that said hello.
    pub(crate) pid: u32,
    pub(crate) max_record_bytes: usize,
    pub(crate) protocols: RangeInclusive<u32>,
}

/// The engine's end of the stream. The stream's other end sees its drop as the end of the steps.
#[derive(Debug)]
pub(crate) struct StepSender {
    /// Bounded by the steps that may be in flight.
    requests: mpsc::UnboundedSender<proto::StepsRequest>,
    max_record_bytes: usize,
    form: Form,
}

/// The thread that carries the stream.
#[derive(Debug)]
pub(crate) struct StepStream {
    stop: oneshot::Sender<Duration>,
    thread: JoinHandle<()>,
}

impl StepSender {
    /// Both ends, not yet in a stream.
    pub(super) fn new(max_record_bytes: usize) -> (Self, UnboundedReceiverStream<proto::StepsRequest>) {
        let (requests, receiver) = mpsc::unbounded_channel();
        (Self { requests, max_record_bytes, form: Form::Fields }, UnboundedReceiverStream::new(receiver))
    }

    /// Fits the form and the size of the messages to what the worker said of itself.
    pub(super) fn suit(&mut self, worker: &proto::InfoReply) {
        self.form = Form::of(worker.record_version);
        let limit = usize::try_from(worker.max_message_bytes).unwrap_or(usize::MAX);
        self.max_record_bytes = self.max_record_bytes.min(limit);
    }

    /// Hands a step over.
    pub(crate) fn send(&self, step: &Step) -> Result<()> {
        self.request(messages::request(step, self.form))
    }

    /// As [`Self::send`], for a forward, which is always a record.
    pub(crate) fn send_forward(&self, batch: &ForwardBatch) -> Result<()> {
        if self.form == Form::Fields {
            return Err(Error::new(
                ErrorCode::Unsupported,
                "the worker takes no records, and so no forwards on the stream",
            )
            .with_remedy("use a worker of this version of pillion"));
        }
        self.request(messages::forward(batch)?)
    }

    fn request(&self, request: proto::StepsRequest) -> Result<()> {
        let len = messages::size(&request);
        if len > self.max_record_bytes {
            let message =
                format!("a step of {len} bytes is longer than the {} that a message takes", self.max_record_bytes);
            return Err(Error::new(ErrorCode::Unsupported, message)
                .with_remedy("lower limits.maxBatchTokens or limits.maxRunning, or send shorter prompts"));
        }
        self.requests.send(request).map_err(|_| Error::new(ErrorCode::WorkerLost, "the stream of steps has ended"))
    }
}

impl StepStream {
    /// Connects and opens the stream. Waits for the worker, which listens already, but not for long.
    pub(crate) fn open(target: Target, arrivals: Arrivals, mailbox: Arc<Mailbox>) -> Result<(StepSender, Self)> {
        let runtime = super::runtime()?;
        let (mut sender, requests) = StepSender::new(target.max_record_bytes);
        let (stop, stopped) = oneshot::channel();
        let (opened, is_open) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("pillion-grpc".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let carry = async {
                        match open(&target, requests).await {
                            Ok((worker, replies)) => {
                                let _ = opened.send(Ok(worker));
                                end(&mailbox, carry(replies, &arrivals).await);
                            }
                            Err(failure) => drop(opened.send(Err(failure.into_error()))),
                        }
                    };
                    let stopped = async {
                        // Not told, nobody waits for the rest either.
                        let wait: Duration = stopped.await.unwrap_or_default();
                        // A sleep of nothing would last to the timer's next millisecond.
                        if !wait.is_zero() {
                            tokio::time::sleep(wait).await;
                        }
                    };
                    tokio::select! {
                        () = carry => {}
                        () = stopped => {}
                    }
                });
            })
            .map_err(|e| {
                Error::new(ErrorCode::OutOfMemory, "the thread for gRPC could not be started").with_cause(e)
            })?;
        let stream = Self { stop, thread };
        // Three calls, each with its deadline.
        let result = is_open.recv_timeout(CALL * 4).unwrap_or_else(|_| {
            Err(Error::new(ErrorCode::WorkerLost, format!("the worker did not take the stream within {:?}", CALL * 4)))
        });
        match result {
            Ok(worker) => {
                sender.suit(&worker);
                Ok((sender, stream))
            }
            Err(error) => {
                stream.stop(Rest::Dropped);
                Err(error)
            }
        }
    }

    /// After this no answer comes any more. The stream of a process that has ended ends as soon as its last answer was read, unless a
    /// process that it has forked keeps it open.
    pub(crate) fn stop(self, rest: Rest) {
        let wait = match rest {
            Rest::Taken => REST_WAIT,
            Rest::Dropped => Duration::ZERO,
        };
        let _ = self.stop.send(wait);
        // A panic there was a bug of ours, and the worker is given up anyway.
        let _ = self.thread.join();
    }
}

async fn open(
    target: &Target,
    requests: UnboundedReceiverStream<proto::StepsRequest>,
) -> Result<(proto::InfoReply, Streaming<proto::StepsReply>), Failure> {
    let client = Client::connect(&target.path, target.max_record_bytes, target.protocols.clone()).await?;
    if let Some(pid) = client.pid.filter(|pid| *pid != target.pid) {
        let message = format!("process {pid} listens in the place of the worker, process {}", target.pid);
        return Err(Failure::Said(Error::new(ErrorCode::BridgeUnavailable, message)));
    }
    let (worker, _) = client.info(None).await?;
    Ok((worker, client.steps(requests).await?))
}

/// Brings the answers until there are no more, and gives the reason, if there is one.
pub(super) async fn carry(mut replies: Streaming<proto::StepsReply>, arrivals: &Arrivals) -> Result<(), Failure> {
    loop {
        match replies.message().await {
            Ok(Some(reply)) => {
                let answer = messages::answer(reply, arrivals.expected());
                answer.and_then(|answer| arrivals.done(answer)).map_err(Failure::Said)?;
            }
            Ok(None) => return Ok(()),
            Err(status) => return Err(failure(&status)),
        }
    }
}

/// An end of the connection is as a rule the first that is seen of the end of the process, which then says more.
fn end(mailbox: &Mailbox, ended: Result<(), Failure>) {
    match ended {
        Ok(()) => mailbox.hung_up(Error::new(ErrorCode::WorkerLost, "the worker ended the stream of steps")),
        Err(Failure::Gone(error)) => mailbox.hung_up(error),
        Err(Failure::Said(error)) => mailbox.broken(error),
    }
}
