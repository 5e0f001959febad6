//! What one backend and the Python thread share: its options, its state and the way to its engine.

use std::{
    fs,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

use pillion_core::{
    BackendEvent, BackendEvents, Error, ErrorCode, LogLevel, LogRecord, LogSource, Progress, Result, WorkerInfo,
    WorkerStatus,
};

use crate::{EmbeddedOptions, tensors::Spare};

/// Steps that may be submitted and unanswered: one runs, one waits behind it.
pub(crate) const MAX_IN_FLIGHT: usize = 2;

/// Larger buffers are not kept.
pub(crate) const KEEP: usize = 4 << 20;

/// How far a backend has come. Only forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
pub(crate) enum State {
    Starting,
    Ready,
    /// Loading failed.
    Lost,
    /// `close` was called; what is still queued is not run.
    Closing,
    /// The engine has heard the last of us.
    Closed,
}

/// One backend as the Python thread sees it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) options: EmbeddedOptions,
    /// Buffers for tensors.
    pub(crate) spare_tensors: Arc<Spare>,
    events: BackendEvents,
    /// Held while an event is sent, so that nothing comes after `Closed`; sending never blocks.
    state: Mutex<State>,
    /// The same, for who only looks. An answer wakes the engine while the Python thread still has the lock, and the engine's next step
    /// must not wait for that.
    seen: AtomicU8,
    in_flight: AtomicUsize,
    /// Buffers of steps that were answered.
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Client {
    pub(crate) fn new(id: u64, options: EmbeddedOptions, events: BackendEvents) -> Self {
        Self {
            id,
            options,
            spare_tensors: Arc::default(),
            events,
            state: Mutex::new(State::Starting),
            seen: AtomicU8::new(State::Starting as u8),
            in_flight: AtomicUsize::new(0),
            spare: Mutex::new(Vec::with_capacity(MAX_IN_FLIGHT)),
        }
    }

    /// Whether the thread that submits waits for the answer.
    pub(crate) fn is_awaited(&self) -> bool {
        self.events.is_awaited()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.seen() >= State::Closing as u8
    }

    /// Takes a place for a step and a buffer to write it to.
    pub(crate) fn begin_step(&self) -> Result<Vec<u8>> {
        let seen = self.seen();
        if seen >= State::Closing as u8 {
            return Err(closed());
        }
        if seen != State::Ready as u8 {
            return Err(Error::internal("a step came to a backend that is not ready"));
        }
        let taken =
            self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < MAX_IN_FLIGHT).then_some(n + 1));
        if taken.is_err() {
            return Err(Error::internal(format!("a step came while {MAX_IN_FLIGHT} are unanswered")));
        }
        Ok(lock(&self.spare).pop().unwrap_or_default())
    }

    /// Gives the place and the buffer back, then answers.
    pub(crate) fn end_step(&self, answer: BackendEvent, buffer: Vec<u8>) {
        self.cancel_step(buffer);
        self.send(answer);
    }

    /// Gives the place and the buffer back without an answer.
    pub(crate) fn cancel_step(&self, buffer: Vec<u8>) {
        // A buffer that a large tensor has grown is not kept for ever.
        if buffer.capacity() <= KEEP {
            lock(&self.spare).push(buffer);
        }
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn progress(&self, progress: Progress) {
        self.send(BackendEvent::Progress(progress));
    }

    pub(crate) fn log(&self, level: LogLevel, source: LogSource, message: impl Into<String>) {
        self.log_record(LogRecord { level, source, message: message.into(), request_id: None });
    }

    pub(crate) fn log_record(&self, record: LogRecord) {
        self.send(BackendEvent::Log(record));
    }

    /// Tells how loading ended, unless the engine has closed this backend meanwhile.
    pub(crate) fn loaded(&self, result: Result<Box<WorkerInfo>>) {
        let mut state = self.state();
        if *state >= State::Closing {
            return;
        }
        let (next, event) = match result {
            Ok(info) => (State::Ready, BackendEvent::Ready(info)),
            Err(error) => (State::Lost, BackendEvent::LoadFailed(error)),
        };
        self.go(&mut state, next);
        self.events.send(event);
    }

    /// Whether this call began the closing.
    pub(crate) fn begin_close(&self) -> bool {
        let mut state = self.state();
        let begins = *state < State::Closing;
        if begins {
            self.go(&mut state, State::Closing);
        }
        begins
    }

    /// Says `Closed`, once.
    pub(crate) fn closed(&self) {
        let mut state = self.state();
        if *state != State::Closed {
            self.go(&mut state, State::Closed);
            self.events.send(BackendEvent::Closed);
        }
    }

    /// Ends the conversation without a word: the engine is gone.
    pub(crate) fn forget(&self) {
        self.go(&mut self.state(), State::Closed);
    }

    pub(crate) fn status(&self) -> WorkerStatus {
        let state = match *self.state() {
            State::Starting => "starting",
            State::Ready if self.in_flight.load(Ordering::Relaxed) > 0 => "busy",
            State::Ready => "ready",
            State::Lost => "lost",
            State::Closing | State::Closed => "closed",
        };
        WorkerStatus { pid: std::process::id(), state: state.to_owned(), restarts: 0, rss_bytes: rss_bytes() }
    }

    fn send(&self, event: BackendEvent) {
        let state = self.state();
        if *state != State::Closed {
            self.events.send(event);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn seen(&self) -> u8 {
        self.seen.load(Ordering::Acquire)
    }

    fn go(&self, state: &mut State, next: State) {
        *state = next;
        self.seen.store(next as u8, Ordering::Release);
    }
}

/// What a call after `close` gets.
pub(crate) fn closed() -> Error {
    Error::new(ErrorCode::Closed, "the backend has been closed")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resident memory of this process; 0 where the system does not tell it by a file.
pub(crate) fn rss_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
