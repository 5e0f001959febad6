//! The engine's way to one worker process, and the thread that brings its answers back.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use pillion_core::{
    BackendEvent, BackendEvents, Error, ErrorCode, Result,
    step::{Step, StepOutput},
};

use crate::{
    flight::{Flight, MAX_IN_FLIGHT},
    grpc::{SocketFolder, StepSender, StepStream, Target},
    mailbox::Mailbox,
    options::{Transport, WorkerOptions},
    shm::{self, Doorbell, Life, RingReader, RingShape, RingWriter, Watch},
};

/// Hands steps over. It lives as long as one process.
#[derive(Debug)]
pub(crate) struct Link {
    way: Way,
    flight: Arc<Mutex<Flight>>,
}

#[derive(Debug)]
enum Way {
    Shm { steps: RingWriter, bell: Doorbell, record: Vec<u8> },
    Grpc(StepSender),
}

/// What one worker process is reached by, not yet in use.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) life: Life,
    pub(crate) carrier: Carrier,
}

/// What the steps are carried by.
#[derive(Debug)]
pub(crate) enum Carrier {
    Shm(Box<Rings>),
    Grpc(SocketFolder),
}

/// Rings and doorbells.
#[derive(Debug)]
pub(crate) struct Rings {
    pub(crate) shape: RingShape,
    pub(crate) steps: RingWriter,
    pub(crate) answers: RingReader,
    pub(crate) step_bell: Doorbell,
    pub(crate) answer_bell: Doorbell,
}

/// Takes answers as they come, and notices the process's end. It lives as long as one process.
#[derive(Debug)]
pub(crate) struct Answers {
    reader: Answering,
    watch: Option<Watch>,
}

#[derive(Debug)]
enum Answering {
    Shm { bell: Doorbell, stop: Arc<AtomicBool>, thread: JoinHandle<()> },
    Grpc(StepStream),
}

/// Where answers go, whichever way they come.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    pub(crate) flight: Arc<Mutex<Flight>>,
    pub(crate) events: BackendEvents,
}

impl Arrivals {
    /// Refuses an answer that nobody waits for.
    pub(crate) fn step_done(&self, output: StepOutput) -> Result<()> {
        lock(&self.flight).answered(output.step_id, Instant::now())?;
        self.events.send(BackendEvent::StepDone(output));
        Ok(())
    }
}

impl Channel {
    pub(crate) fn new(options: &WorkerOptions) -> Result<Self> {
        let carrier = match options.transport {
            Transport::Shm => Carrier::Shm(Box::new(Rings::new(options.max_record_bytes)?)),
            Transport::Grpc => Carrier::Grpc(SocketFolder::new()?),
        };
        Ok(Self { life: Life::new()?, carrier })
    }

    /// To be rung by a worker over shared memory; none of the others has one.
    pub(crate) fn step_bell(&self) -> Result<Option<Doorbell>> {
        match &self.carrier {
            Carrier::Shm(rings) => rings.step_bell.try_clone().map(Some),
            Carrier::Grpc(_) => Ok(None),
        }
    }

    /// Starts the threads, and gives both halves. `pid` is the worker's process.
    pub(crate) fn open(
        self,
        pid: u32,
        max_record_bytes: usize,
        arrivals: Arrivals,
        mailbox: &Arc<Mailbox>,
    ) -> Result<(Link, Answers)> {
        let flight = Arc::clone(&arrivals.flight);
        let to_mailbox = Arc::clone(mailbox);
        let watch = self.life.watch(move || to_mailbox.ending())?;
        let (way, reader) = match self.carrier {
            Carrier::Shm(rings) => rings.open(arrivals, Arc::clone(mailbox))?,
            Carrier::Grpc(folder) => {
                let target = Target { path: folder.socket(), pid, max_record_bytes };
                let (sender, stream) = StepStream::open(target, arrivals, Arc::clone(mailbox))?;
                // Connected, neither side needs the path, and what is not there cannot be left behind.
                drop(folder);
                (Way::Grpc(sender), Answering::Grpc(stream))
            }
        };
        Ok((Link { way, flight }, Answers { reader, watch }))
    }
}

impl Rings {
    fn new(max_record_bytes: usize) -> Result<Self> {
        let shape = RingShape::new(MAX_IN_FLIGHT, max_record_bytes);
        Ok(Self {
            shape,
            steps: RingWriter::new(shm::create("pillion-steps", shape)?, shape),
            answers: RingReader::new(shm::create("pillion-answers", shape)?, shape),
            step_bell: Doorbell::new()?,
            answer_bell: Doorbell::new()?,
        })
    }

    fn open(self, arrivals: Arrivals, mailbox: Arc<Mailbox>) -> Result<(Way, Answering)> {
        let bell = self.answer_bell.try_clone()?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut reader = Reader {
            ring: self.answers,
            bell: self.answer_bell,
            arrivals,
            stop: Arc::clone(&stop),
            record: Vec::new(),
        };
        let thread = thread::Builder::new()
            .name("pillion-answers".to_owned())
            .spawn(move || {
                if let Err(error) = reader.run() {
                    mailbox.broken(error);
                }
            })
            .map_err(|e| {
                Error::new(ErrorCode::OutOfMemory, "the answers' thread could not be started").with_cause(e)
            })?;
        let way = Way::Shm { steps: self.steps, bell: self.step_bell, record: Vec::new() };
        Ok((way, Answering::Shm { bell, stop, thread }))
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
        lock(&self.flight).submitted(step.step_id, positions, Instant::now())?;
        let sent = match &mut self.way {
            Way::Shm { steps, bell, record } => {
                step.encode_into(record);
                steps.push(record).map(|()| bell.ring())
            }
            Way::Grpc(sender) => sender.send(step),
        };
        if sent.is_err() {
            lock(&self.flight).withdraw();
        }
        sent
    }

    /// Says that nothing comes after what was submitted.
    pub(crate) fn end(self) -> Result<()> {
        match self.way {
            Way::Shm { mut steps, bell, .. } => {
                steps.end()?;
                bell.ring_if_room();
            }
            // The stream ends with its sender.
            Way::Grpc(sender) => drop(sender),
        }
        Ok(())
    }
}

impl Answers {
    /// After this no answer comes any more. The process has been killed.
    pub(crate) fn stop(self) {
        match self.reader {
            Answering::Shm { bell, stop, thread } => {
                stop.store(true, Ordering::Release);
                bell.ring_if_room();
                // A panic there was a bug of ours, and the worker is given up anyway.
                let _ = thread.join();
            }
            Answering::Grpc(stream) => stream.stop(),
        }
        if let Some(watch) = self.watch {
            watch.stop();
        }
    }
}

struct Reader {
    ring: RingReader,
    bell: Doorbell,
    arrivals: Arrivals,
    stop: Arc<AtomicBool>,
    record: Vec<u8>,
}

impl Reader {
    /// Until it is stopped or the worker gives an answer that cannot be.
    fn run(&mut self) -> Result<()> {
        loop {
            let rung = self.bell.wait();
            if self.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            for _ in 0..rung {
                let output = self.take()?;
                self.arrivals.step_done(output)?;
            }
        }
    }

    fn take(&mut self) -> Result<StepOutput> {
        if self.ring.pop(&mut self.record)? {
            StepOutput::decode(&self.record)
        } else {
            Err(Error::internal("the worker ended its answers while it was not asked to"))
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
