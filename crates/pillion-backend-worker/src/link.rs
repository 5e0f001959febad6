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
    forward::{ForwardBatch, ForwardOutput},
    step::{RecordKind, Step, StepOutput},
};

use crate::{
    flight::{Flight, MAX_IN_FLIGHT},
    mailbox::Mailbox,
    shm::{self, Borrower, Doorbell, Lender, Life, PoolShape, RingReader, RingShape, RingWriter, Watch},
};

/// Hands steps over. It lives as long as one process.
#[derive(Debug)]
pub(crate) struct Link {
    steps: RingWriter,
    bell: Doorbell,
    flight: Arc<Mutex<Flight>>,
    record: Vec<u8>,
    inputs: Option<Lender>,
}

/// The rings and doorbells of one worker process, not yet in use.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) shape: RingShape,
    pub(crate) steps: RingWriter,
    pub(crate) answers: RingReader,
    pub(crate) step_bell: Doorbell,
    pub(crate) answer_bell: Doorbell,
    pub(crate) life: Life,
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
    bell: Doorbell,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    watch: Option<Watch>,
}

impl Channel {
    pub(crate) fn new(max_record_bytes: usize, max_pool_bytes: usize) -> Result<Self> {
        let shape = RingShape::new(MAX_IN_FLIGHT, max_record_bytes);
        Ok(Self {
            shape,
            steps: RingWriter::new(shm::create("pillion-steps", shape)?, shape),
            answers: RingReader::new(shm::create("pillion-answers", shape)?, shape),
            step_bell: Doorbell::new()?,
            answer_bell: Doorbell::new()?,
            life: Life::new()?,
            pools: if max_pool_bytes > 0 { Some(Pools::new(max_pool_bytes)?) } else { None },
        })
    }

    /// Starts the threads, and gives both halves.
    pub(crate) fn open(
        self,
        flight: &Arc<Mutex<Flight>>,
        mailbox: &Arc<Mailbox>,
        events: &BackendEvents,
    ) -> Result<(Link, Answers)> {
        let bell = self.answer_bell.try_clone()?;
        let (inputs, results) = self.pools.map(|pools| (pools.inputs, pools.results)).unzip();
        let stop = Arc::new(AtomicBool::new(false));
        let mut reader = Reader {
            ring: self.answers,
            bell: self.answer_bell,
            flight: Arc::clone(flight),
            events: events.clone(),
            stop: Arc::clone(&stop),
            record: Vec::new(),
            results,
        };
        let to_mailbox = Arc::clone(mailbox);
        let watch = self.life.watch(move || to_mailbox.ending())?;
        let mailbox = Arc::clone(mailbox);
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
        let link =
            Link { steps: self.steps, bell: self.step_bell, flight: Arc::clone(flight), record: Vec::new(), inputs };
        Ok((link, Answers { bell, stop, thread, watch }))
    }
}

impl Pools {
    fn new(bytes: usize) -> Result<Self> {
        let shape = PoolShape::new(bytes);
        Ok(Self { shape, inputs: Lender::new(shape)?, results: Borrower::new(shape)? })
    }
}

impl Link {
    /// Copies the step into the ring and wakes the worker.
    pub(crate) fn submit(&mut self, step: &Step) -> Result<()> {
        step.encode_into(&mut self.record);
        self.send(RecordKind::Step, step.step_id, step.rows.iter().map(|r| u64::from(r.count)).sum())
    }

    /// As [`Self::submit`], for a forward. Large tensors are put into the pool while there is room.
    pub(crate) fn submit_forward(&mut self, batch: &ForwardBatch) -> Result<()> {
        let mut lent = Vec::new();
        let inputs = &mut self.inputs;
        let encoded = batch.encode_placed(&mut self.record, |tensor| {
            let place = inputs.as_mut()?.put(tensor)?;
            lent.push(place);
            Some(place)
        });
        let sent = encoded.and_then(|()| self.send(RecordKind::Forward, batch.forward_id, batch.items.len() as u64));
        if let (Err(_), Some(inputs)) = (&sent, &mut self.inputs) {
            for place in lent {
                inputs.take_back(place);
            }
        }
        sent
    }

    fn send(&mut self, kind: RecordKind, id: u64, positions: u64) -> Result<()> {
        lock(&self.flight).submitted(kind, id, positions, Instant::now())?;
        if let Err(error) = self.steps.push(&self.record) {
            lock(&self.flight).withdraw();
            return Err(error);
        }
        self.bell.ring();
        Ok(())
    }

    /// Says that nothing comes after what was submitted.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.steps.end()?;
        self.bell.ring_if_room();
        Ok(())
    }
}

impl Answers {
    /// After this no answer comes any more. The process has been killed.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring_if_room();
        // A panic there was a bug of ours, and the worker is given up anyway.
        let _ = self.thread.join();
        if let Some(watch) = self.watch {
            watch.stop();
        }
    }
}

struct Reader {
    ring: RingReader,
    bell: Doorbell,
    flight: Arc<Mutex<Flight>>,
    events: BackendEvents,
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
                let (id, answer) = self.take()?;
                lock(&self.flight).answered(id, Instant::now())?;
                self.events.send(answer);
            }
        }
    }

    fn take(&mut self) -> Result<(u64, BackendEvent)> {
        if !self.ring.pop(&mut self.record)? {
            return Err(Error::internal("the worker ended its answers while it was not asked to"));
        }
        if lock(&self.flight).expected() == Some(RecordKind::Forward) {
            let results = self.results.as_ref();
            let output = ForwardOutput::decode_placed(&self.record, |place, len| results?.find(place, len))?;
            Ok((output.forward_id, BackendEvent::ForwardDone(output)))
        } else {
            let output = StepOutput::decode(&self.record)?;
            Ok((output.step_id, BackendEvent::StepDone(output)))
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
