//! The engine's way to one worker process, and the thread that brings its answers back.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use pillion_core::{
    BackendEvent, BackendEvents, Error, ErrorCode, Result,
    forward::{ForwardBatch, ForwardOutput},
    step::{RecordKind, Step, StepOutput},
};

use crate::{
    flight::{Flight, MAX_IN_FLIGHT},
    grpc::{SocketFolder, StepSender, StepStream, Target},
    mailbox::Mailbox,
    options::{Transport, WorkerOptions},
    shm::{self, Borrower, Doorbell, Lender, Life, PoolShape, RingReader, RingShape, RingWriter, Watch},
};

/// Hands steps over. It lives as long as one process.
#[derive(Debug)]
pub(crate) struct Link {
    way: Way,
    flight: Arc<Mutex<Flight>>,
}

#[derive(Debug)]
enum Way {
    Shm { steps: RingWriter, bell: Doorbell, record: Vec<u8>, inputs: Option<Lender> },
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
    /// Where the worker listens, and the versions that may be agreed on.
    Grpc(SocketFolder, RangeInclusive<u32>),
}

/// Rings and doorbells.
#[derive(Debug)]
pub(crate) struct Rings {
    pub(crate) shape: RingShape,
    pub(crate) steps: RingWriter,
    pub(crate) answers: RingReader,
    pub(crate) step_bell: Doorbell,
    pub(crate) answer_bell: Doorbell,
    /// Whether the answers' bell is the one at which the engine waits.
    wakes_engine: bool,
    pub(crate) pools: Option<Pools>,
}

/// Where large tensors lie.
#[derive(Debug)]
pub(crate) struct Pools {
    pub(crate) shape: PoolShape,
    pub(crate) inputs: Lender,
    pub(crate) results: Borrower,
}

/// Takes answers as they come, and notices the process's end. It lives as long as one process.
#[derive(Debug)]
pub(crate) struct Answers {
    reader: Answering,
    watch: Option<Watch>,
}

#[derive(Debug)]
enum Answering {
    Shm {
        bell: Doorbell,
        stop: Arc<AtomicBool>,
        thread: JoinHandle<Reader>,
    },
    /// By the engine's own thread, which the worker wakes.
    Engine(ReaderPlace),
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

/// Where the engine's thread finds what reads its answers.
pub(crate) type ReaderPlace = Arc<Mutex<Option<Reader>>>;

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
    fn event(&self, answer: Answer) -> Result<BackendEvent> {
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

    /// To be rung by a worker over shared memory; none of the others has one.
    pub(crate) fn step_bell(&self) -> Result<Option<Doorbell>> {
        match &self.carrier {
            Carrier::Shm(rings) => rings.step_bell.try_clone().map(Some),
            Carrier::Grpc(..) => Ok(None),
        }
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
        let watch = self.life.watch(move || to_mailbox.ending())?;
        let (way, reader) = match self.carrier {
            Carrier::Shm(rings) => rings.open(arrivals, Arc::clone(mailbox), place)?,
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

impl Rings {
    fn new(options: &WorkerOptions, events: &BackendEvents) -> Result<Self> {
        let max_pool_bytes = options.max_pool_bytes;
        let shape = RingShape::new(MAX_IN_FLIGHT, options.max_record_bytes);
        let (answer_bell, wakes_engine) = match events.bell() {
            Some(bell) => (Doorbell::of(bell)?, true),
            None => (Doorbell::new()?, false),
        };
        Ok(Self {
            shape,
            steps: RingWriter::new(shm::create("pillion-steps", shape)?, shape),
            answers: RingReader::new(shm::create("pillion-answers", shape)?, shape),
            step_bell: Doorbell::new()?,
            answer_bell,
            wakes_engine,
            pools: if max_pool_bytes > 0 { Some(Pools::new(max_pool_bytes)?) } else { None },
        })
    }

    fn open(self, arrivals: Arrivals, mailbox: Arc<Mailbox>, place: &ReaderPlace) -> Result<(Way, Answering)> {
        let bell = self.answer_bell.try_clone()?;
        let (inputs, results) = self.pools.map(|pools| (pools.inputs, pools.results)).unzip();
        let stop = Arc::new(AtomicBool::new(false));
        let mut reader = Reader {
            ring: self.answers,
            bell: self.answer_bell,
            arrivals,
            stop: Arc::clone(&stop),
            record: Vec::new(),
            results,
        };
        let way = Way::Shm { steps: self.steps, bell: self.step_bell, record: Vec::new(), inputs };
        if self.wakes_engine {
            *lock(place) = Some(reader);
            return Ok((way, Answering::Engine(Arc::clone(place))));
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
        Ok((way, Answering::Shm { bell, stop, thread }))
    }
}

impl Pools {
    fn new(bytes: usize) -> Result<Self> {
        let shape = PoolShape::new(bytes);
        Ok(Self { shape, inputs: Lender::new(shape)?, results: Borrower::new(shape)? })
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
            Way::Shm { steps, bell, record, .. } => {
                step.encode_into(record);
                steps.push(record).map(|()| bell.ring())
            }
            Way::Grpc(sender) => sender.send(step),
        })
    }

    /// As [`Self::submit`], for a forward. Large tensors are put into the pool, where there is one, while it has room.
    pub(crate) fn submit_forward(&mut self, batch: &ForwardBatch) -> Result<()> {
        self.hand_over(RecordKind::Forward, batch.forward_id, batch.items.len() as u64, |way| match way {
            Way::Shm { steps, bell, record, inputs } => {
                let mut lent = Vec::new();
                let encoded = batch.encode_placed(record, |tensor| {
                    let place = inputs.as_mut()?.put(tensor)?;
                    lent.push(place);
                    Some(place)
                });
                let sent = encoded.and_then(|()| steps.push(record)).map(|()| bell.ring());
                if let (Err(_), Some(inputs)) = (&sent, inputs) {
                    for place in lent {
                        inputs.take_back(place);
                    }
                }
                sent
            }
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
    /// After this no answer comes any more. The process has been killed or has ended; `rest` says whether what it answered and nobody has
    /// taken yet still counts.
    pub(crate) fn stop(self, rest: Rest) {
        let reader = match self.reader {
            Answering::Shm { bell, stop, thread } => {
                stop.store(true, Ordering::Release);
                bell.ring_if_room();
                // A panic there was a bug of ours, and the worker is given up anyway.
                thread.join().ok()
            }
            Answering::Engine(place) => lock(&place).take(),
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
    fn take_rest(&mut self) {
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

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
