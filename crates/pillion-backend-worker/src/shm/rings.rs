//! The way of steps and answers through shared memory, and who takes the answers.

use std::{
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use pillion_core::{
    BackendEvent, BackendEvents, Error, ErrorCode, Result,
    forward::{ForwardBatch, ForwardOutput},
    step::{RecordKind, Step, StepOutput},
};

use super::{
    doorbell::Doorbell,
    pool::{Borrower, Inputs, Lender},
    ring::{RingReader, RingWriter, create},
    shape::{PoolShape, RingShape},
};
use crate::{
    flight::MAX_IN_FLIGHT,
    link::{Answer, Arrivals, lock},
    mailbox::Mailbox,
    options::WorkerOptions,
};

/// Where the engine's thread finds what reads its answers.
pub(crate) type ReaderPlace = Arc<Mutex<Option<Reader>>>;

/// Rings and doorbells, not yet in use.
#[derive(Debug)]
pub(crate) struct Rings {
    shape: RingShape,
    steps: RingWriter,
    answers: RingReader,
    step_bell: Doorbell,
    answer_bell: Doorbell,
    /// Whether the answers' bell is the one at which the engine waits.
    wakes_engine: bool,
    pools: Option<Pools>,
}

/// Where large tensors lie.
#[derive(Debug)]
struct Pools {
    shape: PoolShape,
    inputs: Lender,
    results: Borrower,
}

/// Where steps and forwards are put.
#[derive(Debug)]
pub(crate) struct Sender {
    steps: RingWriter,
    bell: Doorbell,
    record: Vec<u8>,
    inputs: Option<Inputs>,
}

/// Who takes the answers.
#[derive(Debug)]
pub(crate) enum Receiver {
    Thread {
        bell: Doorbell,
        stop: Arc<AtomicBool>,
        thread: JoinHandle<Reader>,
    },
    /// The engine's own thread, which the worker wakes.
    Engine(ReaderPlace),
}

impl Rings {
    pub(crate) fn new(options: &WorkerOptions, events: &BackendEvents) -> Result<Self> {
        let max_pool_bytes = options.max_pool_bytes;
        let shape = RingShape::new(MAX_IN_FLIGHT, options.max_record_bytes);
        let (answer_bell, wakes_engine) = match events.bell() {
            Some(bell) => (Doorbell::of(bell)?, true),
            None => (Doorbell::new()?, false),
        };
        Ok(Self {
            shape,
            steps: RingWriter::new(create("pillion-steps", shape)?, shape),
            answers: RingReader::new(create("pillion-answers", shape)?, shape),
            step_bell: Doorbell::new()?,
            answer_bell,
            wakes_engine,
            pools: if max_pool_bytes > 0 { Some(Pools::new(max_pool_bytes)?) } else { None },
        })
    }

    /// The sizes that the worker is told: of each ring, and of each pool if there are any.
    pub(crate) fn shapes(&self) -> (RingShape, Option<PoolShape>) {
        (self.shape, self.pools.as_ref().map(|pools| pools.shape))
    }

    /// The worker's descriptors, in the order of `ToWorker::Load`.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.steps.file(), self.answers.file(), self.step_bell.fd(), self.answer_bell.fd()];
        if let Some(pools) = &self.pools {
            fds.extend([pools.inputs.file(), pools.results.file()]);
        }
        fds
    }

    /// What wakes the worker.
    pub(crate) fn step_bell(&self) -> Result<Doorbell> {
        self.step_bell.try_clone()
    }

    /// Takes both halves into use.
    pub(crate) fn open(
        self,
        arrivals: Arrivals,
        mailbox: Arc<Mailbox>,
        place: &ReaderPlace,
    ) -> Result<(Sender, Receiver)> {
        let bell = self.answer_bell.try_clone()?;
        let (inputs, results) = self.pools.map(|pools| (Inputs::new(pools.inputs), pools.results)).unzip();
        let stop = Arc::new(AtomicBool::new(false));
        let mut reader = Reader {
            ring: self.answers,
            bell: self.answer_bell,
            arrivals,
            stop: Arc::clone(&stop),
            record: Vec::new(),
            results,
        };
        let sender = Sender { steps: self.steps, bell: self.step_bell, record: Vec::new(), inputs };
        if self.wakes_engine {
            *lock(place) = Some(reader);
            return Ok((sender, Receiver::Engine(Arc::clone(place))));
        }
        let thread = thread::Builder::new()
            .name("pillion-answers".to_owned())
            .spawn(move || {
                if let Err(error) = reader.run() {
                    mailbox.broken(error);
                }
                reader
            })
            .map_err(|e| {
                Error::new(ErrorCode::OutOfMemory, "the answers' thread could not be started").with_cause(e)
            })?;
        Ok((sender, Receiver::Thread { bell, stop, thread }))
    }
}

impl Pools {
    fn new(bytes: usize) -> Result<Self> {
        let shape = PoolShape::new(bytes);
        Ok(Self { shape, inputs: Lender::new(shape)?, results: Borrower::new(shape)? })
    }
}

impl Sender {
    /// Hands the step over and wakes the worker.
    pub(crate) fn submit(&mut self, step: &Step) -> Result<()> {
        step.encode_into(&mut self.record);
        self.steps.push(&self.record).map(|()| self.bell.ring())
    }

    /// The pool of inputs, if there is one.
    pub(crate) fn inputs(&self) -> Option<Inputs> {
        self.inputs.clone()
    }

    /// As [`Self::submit`]. Large tensors are put into the pool, where there is one, while it has room.
    pub(crate) fn submit_forward(&mut self, batch: &ForwardBatch) -> Result<()> {
        let Self { steps, bell, record, inputs } = self;
        let mut inputs = inputs.as_ref().map(Inputs::lock);
        let mut lent = Vec::new();
        let encoded = batch.encode_placed(record, |tensor| {
            let place = inputs.as_mut()?.put(tensor)?;
            lent.push(place);
            Some(place)
        });
        let sent = encoded.and_then(|()| steps.push(record)).map(|()| bell.ring());
        if let (Err(_), Some(inputs)) = (&sent, &mut inputs) {
            for place in lent {
                inputs.take_back(place);
            }
        }
        sent
    }

    /// Says that nothing comes after what was submitted.
    pub(crate) fn end(mut self) -> Result<()> {
        self.steps.end()?;
        self.bell.ring_if_room();
        Ok(())
    }
}

impl Receiver {
    /// After this no answer comes any more. Gives what can still read those that came.
    pub(crate) fn stop(self) -> Option<Reader> {
        match self {
            Self::Thread { bell, stop, thread } => {
                stop.store(true, Ordering::Release);
                bell.ring_if_room();
                // A panic there was a bug of ours, and the worker is given up anyway.
                thread.join().ok()
            }
            Self::Engine(place) => lock(&place).take(),
        }
    }
}

/// Reads answers of one process.
#[derive(Debug)]
pub(crate) struct Reader {
    ring: RingReader,
    bell: Doorbell,
    arrivals: Arrivals,
    stop: Arc<AtomicBool>,
    record: Vec<u8>,
    results: Option<Borrower>,
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
                let answer = self.take()?;
                self.arrivals.done(answer)?;
            }
        }
    }

    /// Takes up to so many answers. That there are fewer is no error: the rings of a process that has ended may be heard late.
    pub(crate) fn rung(&mut self, count: u32, take: &mut dyn FnMut(BackendEvent)) -> Result<()> {
        for _ in 0..count {
            if self.ring.is_untouched() {
                break;
            }
            let answer = self.take()?;
            take(self.arrivals.event(answer)?);
        }
        Ok(())
    }

    /// Passes on what nobody was told of, or nobody has come to yet. An error in it concerns nobody: the process has ended.
    pub(crate) fn take_rest(&mut self) {
        let events = self.arrivals.events.clone();
        let _ = self.rung(u32::MAX, &mut |event| events.send(event));
    }

    fn take(&mut self) -> Result<Answer> {
        if !self.ring.pop(&mut self.record)? {
            return Err(Error::internal("the worker ended its answers while it was not asked to"));
        }
        if self.arrivals.expected() == Some(RecordKind::Forward) {
            let results = self.results.as_ref();
            ForwardOutput::decode_placed(&self.record, |place, len| results?.find(place, len)).map(Answer::Forward)
        } else {
            StepOutput::decode(&self.record).map(Answer::Step)
        }
    }
}
