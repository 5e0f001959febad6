//! The engine's way to one worker process, and the thread that brings its answers back.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use pillion_core::{
    BackendEvent, BackendEvents, Result,
    forward::{ForwardBatch, ForwardOutput, TensorStore},
    step::{RecordKind, Step, StepOutput},
};

use crate::{
    flight::Flight,
    grpc::{SocketFolder, StepSender, StepStream, Target},
    mailbox::Mailbox,
    options::{Transport, WorkerOptions},
    shm::{self, Life, ReaderPlace, Rings, Watch},
};

/// Hands steps over. It lives as long as one process.
#[derive(Debug)]
pub(crate) struct Link {
    way: Way,
    flight: Arc<Mutex<Flight>>,
}

#[derive(Debug)]
enum Way {
    Shm(shm::Sender),
    Grpc(StepSender),
}

/// What one worker process is reached by, not yet in use.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Where the system has one.
    pub(crate) life: Option<Life>,
    pub(crate) carrier: Carrier,
}

/// What the steps are carried by.
#[derive(Debug)]
pub(crate) enum Carrier {
    Shm(Box<Rings>),
    /// Where the worker listens, and the versions that may be agreed on.
    Grpc(SocketFolder, RangeInclusive<u32>),
}

/// Takes answers as they come, and notices the process's end. It lives as long as one process.
#[derive(Debug)]
pub(crate) struct Answers {
    reader: Answering,
    watch: Option<Watch>,
}

#[derive(Debug)]
enum Answering {
    Shm(shm::Receiver),
    Grpc(StepStream),
}

/// What becomes of the answers that a process has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It ended as it was asked to, and has answered what it was given before.
    Taken,
    /// It is lost, and what it had under way is done anew.
    Dropped,
}

/// What a worker answers.
#[derive(Debug)]
pub(crate) enum Answer {
    Step(StepOutput),
    Forward(ForwardOutput),
}

/// Where answers go, whichever way they come.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    pub(crate) flight: Arc<Mutex<Flight>>,
    pub(crate) events: BackendEvents,
}

impl Arrivals {
    /// What the next answer must be an answer to.
    pub(crate) fn expected(&self) -> Option<RecordKind> {
        lock(&self.flight).expected()
    }

    /// Refuses an answer that nobody waits for.
    pub(crate) fn done(&self, answer: Answer) -> Result<()> {
        self.events.send(self.event(answer)?);
        Ok(())
    }

    /// The same, for whoever takes the event itself.
    pub(crate) fn event(&self, answer: Answer) -> Result<BackendEvent> {
        let (id, event) = match answer {
            Answer::Step(output) => (output.step_id, BackendEvent::StepDone(output)),
            Answer::Forward(output) => (output.forward_id, BackendEvent::ForwardDone(output)),
        };
        lock(&self.flight).answered(id, Instant::now())?;
        Ok(event)
    }
}

impl Channel {
    pub(crate) fn new(options: &WorkerOptions, events: &BackendEvents) -> Result<Self> {
        let carrier = match options.transport {
            Transport::Shm => Carrier::Shm(Box::new(Rings::new(options, events)?)),
            Transport::Grpc => Carrier::Grpc(SocketFolder::new()?, options.protocols.clone()),
        };
        Ok(Self { life: Life::new()?, carrier })
    }

    /// Starts the threads, and gives both halves. `pid` is the worker's process.
    pub(crate) fn open(
        self,
        pid: u32,
        max_record_bytes: usize,
        arrivals: Arrivals,
        mailbox: &Arc<Mailbox>,
        place: &ReaderPlace,
    ) -> Result<(Link, Answers)> {
        let flight = Arc::clone(&arrivals.flight);
        let to_mailbox = Arc::clone(mailbox);
        let watch = match self.life {
            Some(life) => life.watch(move || to_mailbox.ending())?,
            None => None,
        };
        let (way, reader) = match self.carrier {
            Carrier::Shm(rings) => {
                let (sender, receiver) = rings.open(arrivals, Arc::clone(mailbox), place)?;
                (Way::Shm(sender), Answering::Shm(receiver))
            }
            Carrier::Grpc(folder, protocols) => {
                let target = Target { path: folder.socket(), pid, max_record_bytes, protocols };
                let (sender, stream) = StepStream::open(target, arrivals, Arc::clone(mailbox))?;
                // Connected, neither side needs the path, and what is not there cannot be left behind.
                drop(folder);
                (Way::Grpc(sender), Answering::Grpc(stream))
            }
        };
        Ok((Link { way, flight }, Answers { reader, watch }))
    }
}

impl Link {
    /// To a worker that is not our child.
    pub(crate) fn attached(sender: StepSender, flight: Arc<Mutex<Flight>>) -> Self {
        Self { way: Way::Grpc(sender), flight }
    }

    /// Hands the step over and wakes the worker.
    pub(crate) fn submit(&mut self, step: &Step) -> Result<()> {
        let positions = step.rows.iter().map(|r| u64::from(r.count)).sum();
        self.hand_over(RecordKind::Step, step.step_id, positions, |way| match way {
            Way::Shm(sender) => sender.submit(step),
            Way::Grpc(sender) => sender.send(step),
        })
    }

    /// Where inputs can be put before they are submitted.
    pub(crate) fn tensor_store(&self) -> Option<Arc<dyn TensorStore>> {
        match &self.way {
            Way::Shm(sender) => sender.inputs().map(|inputs| Arc::new(inputs) as _),
            Way::Grpc(_) => None,
        }
    }

    /// As [`Self::submit`], for a forward. Large tensors are put into the pool, where there is one, while it has room.
    pub(crate) fn submit_forward(&mut self, batch: &ForwardBatch) -> Result<()> {
        self.hand_over(RecordKind::Forward, batch.forward_id, batch.items.len() as u64, |way| match way {
            Way::Shm(sender) => sender.submit_forward(batch),
            Way::Grpc(sender) => sender.send_forward(batch),
        })
    }

    fn hand_over(
        &mut self,
        kind: RecordKind,
        id: u64,
        positions: u64,
        send: impl FnOnce(&mut Way) -> Result<()>,
    ) -> Result<()> {
        lock(&self.flight).submitted(kind, id, positions, Instant::now())?;
        let result = send(&mut self.way);
        if result.is_err() {
            lock(&self.flight).withdraw();
        }
        result
    }

    /// Says that nothing comes after what was submitted.
    pub(crate) fn end(self) -> Result<()> {
        match self.way {
            Way::Shm(sender) => sender.end(),
            // The stream ends with its sender.
            Way::Grpc(sender) => {
                drop(sender);
                Ok(())
            }
        }
    }
}

impl Answers {
    /// After this no answer comes any more. The process has been killed or has ended; `rest` says whether what it answered and nobody has
    /// taken yet still counts.
    pub(crate) fn stop(self, rest: Rest) {
        let reader = match self.reader {
            Answering::Shm(receiver) => receiver.stop(),
            Answering::Grpc(stream) => {
                stream.stop(rest);
                None
            }
        };
        if let (Some(mut reader), Rest::Taken) = (reader, rest) {
            reader.take_rest();
        }
        if let Some(watch) = self.watch {
            watch.stop();
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
