//! Refuses before it queues: who is in, what they hold, who wants out.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pillion_core::{Error, ErrorCode, Limits, Result, Stage};

/// The shared record of all runs, behind one short lock that is never held while anything waits.
#[derive(Debug)]
pub(crate) struct Admission {
    max_requests: u32,
    max_tokens: u64,
    max_bytes: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Why nothing is taken any more.
    shut: Option<Error>,
    runs: HashMap<u32, Admitted>,
    num_waiting: u32,
    waiting_tokens: u64,
    /// Of the inputs of calls, from their coming to their end.
    bytes: u64,
    arrivals: u64,
    aborted: Vec<u32>,
    close: Option<Duration>,
}

#[derive(Debug, Default)]
struct Admitted {
    tokens: u64,
    bytes: u64,
    is_running: bool,
    is_aborted: bool,
}

/// What callers asked of the engine since it last looked.
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(crate) aborted: Vec<u32>,
    pub(crate) close: Option<Duration>,
}

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            max_requests: limits.max_queued_requests,
            max_tokens: limits.max_queued_tokens,
            max_bytes: limits.max_queued_bytes,
            inner: Mutex::new(Inner::default()),
        }
    }

    /// Takes a run in, or refuses it at once. Gives its place in the order of arrival.
    pub(crate) fn admit(&self, run: u32) -> Result<u64> {
        let mut inner = self.lock();
        if let Some(error) = &inner.shut {
            return Err(error.clone().with_stage(Stage::Admit));
        }
        if inner.num_waiting >= self.max_requests {
            return Err(full(format!("{} requests wait, as many as may (maxQueuedRequests)", inner.num_waiting)));
        }
        if inner.runs.contains_key(&run) {
            return Err(Error::internal(format!("run {run} is in use")));
        }
        inner.runs.insert(run, Admitted::default());
        inner.num_waiting += 1;
        inner.arrivals += 1;
        Ok(inner.arrivals)
    }

    /// Charges a waiting run for its prompt, now that its length is known.
    pub(crate) fn charge(&self, run: u32, tokens: u64) -> Result<()> {
        let mut inner = self.lock();
        let waiting = inner.waiting_tokens;
        // A single prompt is bounded by the context; it must be able to get in when nothing else waits.
        if waiting > 0 && waiting + tokens > self.max_tokens {
            return Err(full(format!(
                "{waiting} prompt tokens wait and this prompt has {tokens}; {} may wait (maxQueuedTokens)",
                self.max_tokens
            )));
        }
        if let Some(admitted) = inner.runs.get_mut(&run) {
            admitted.tokens = tokens;
            inner.waiting_tokens += tokens;
        }
        Ok(())
    }

    /// Charges a call for its inputs, now that they are known.
    pub(crate) fn charge_bytes(&self, run: u32, bytes: u64) -> Result<()> {
        let mut inner = self.lock();
        if bytes > self.max_bytes {
            let most = format!("of at most {} bytes together (maxQueuedBytes)", self.max_bytes);
            return Err(Error::invalid("inputs", &most, format_args!("{bytes} bytes"))
                .with_stage(Stage::Admit)
                .with_remedy("send less at once, or raise the limit in Engine.load({ limits })"));
        }
        if inner.bytes + bytes > self.max_bytes {
            return Err(full(format!(
                "inputs of {} bytes wait and these have {bytes}; {} may wait (maxQueuedBytes)",
                inner.bytes, self.max_bytes
            )));
        }
        if let Some(admitted) = inner.runs.get_mut(&run) {
            admitted.bytes = bytes;
            inner.bytes += bytes;
        }
        Ok(())
    }

    /// The run has a slot and waits no more.
    pub(crate) fn started(&self, run: u32) {
        let mut inner = self.lock();
        let Some(admitted) = inner.runs.get_mut(&run).filter(|a| !a.is_running) else { return };
        admitted.is_running = true;
        let tokens = admitted.tokens;
        inner.num_waiting -= 1;
        inner.waiting_tokens -= tokens;
    }

    /// The run's worker is gone and it waits again.
    pub(crate) fn requeued(&self, run: u32) {
        let mut inner = self.lock();
        let Some(admitted) = inner.runs.get_mut(&run).filter(|a| a.is_running) else { return };
        admitted.is_running = false;
        let tokens = admitted.tokens;
        inner.num_waiting += 1;
        inner.waiting_tokens += tokens;
    }

    /// The run is over. `false` if it was over already.
    pub(crate) fn ended(&self, run: u32) -> bool {
        let mut inner = self.lock();
        let Some(admitted) = inner.runs.remove(&run) else { return false };
        inner.bytes -= admitted.bytes;
        if !admitted.is_running {
            inner.num_waiting -= 1;
            inner.waiting_tokens -= admitted.tokens;
        }
        true
    }

    /// Ends all runs that are left, as the engine ends.
    pub(crate) fn take_all(&self) -> Vec<u32> {
        let mut inner = self.lock();
        (inner.num_waiting, inner.waiting_tokens, inner.bytes) = (0, 0, 0);
        inner.runs.drain().map(|(run, _)| run).collect()
    }

    /// Notes that the caller wants out. `false` if there is nothing to do.
    pub(crate) fn abort(&self, run: u32) -> bool {
        let mut inner = self.lock();
        let Some(admitted) = inner.runs.get_mut(&run).filter(|a| !a.is_aborted) else { return false };
        admitted.is_aborted = true;
        inner.aborted.push(run);
        true
    }

    pub(crate) fn is_aborted(&self, run: u32) -> bool {
        self.lock().runs.get(&run).is_some_and(|a| a.is_aborted)
    }

    /// Takes no more runs; `error` says why. The first reason stays, except that `closed` replaces all others.
    pub(crate) fn shut(&self, error: Error) {
        let mut inner = self.lock();
        if inner.shut.is_none() || error.code() == ErrorCode::Closed {
            inner.shut = Some(error);
        }
    }

    /// Asks the engine to close. A second, shorter drain shortens the first.
    pub(crate) fn close(&self, drain: Duration) {
        self.shut(Error::new(ErrorCode::Closed, "the engine is closed"));
        let mut inner = self.lock();
        inner.close = Some(inner.close.map_or(drain, |earlier| earlier.min(drain)));
    }

    pub(crate) fn take_control(&self) -> Control {
        let mut inner = self.lock();
        Control { aborted: std::mem::take(&mut inner.aborted), close: inner.close.take() }
    }

    /// Requests that wait or are being tokenized, and their prompt tokens.
    pub(crate) fn waiting(&self) -> (u32, u64) {
        let inner = self.lock();
        (inner.num_waiting, inner.waiting_tokens)
    }

    /// Runs that are in, waiting or running.
    pub(crate) fn num_runs(&self) -> usize {
        self.lock().runs.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The record is counts and small maps, each change complete in itself: after a panic elsewhere it is still good.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn full(message: String) -> Error {
    Error::new(ErrorCode::QueueFull, message)
        .with_stage(Stage::Admit)
        .with_remedy("try again later, or raise the limit in Engine.load({ limits })")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        Admission::new(&Limits { max_queued_requests: 2, max_queued_tokens: 10, ..Limits::default() })
    }

    #[test]
    fn refuses_the_request_too_many_until_one_starts() {
        let a = admission();
        assert_eq!((a.admit(1).unwrap(), a.admit(2).unwrap()), (1, 2));
        assert_eq!(a.admit(3).unwrap_err().code(), ErrorCode::QueueFull);
        a.started(1);
        a.admit(3).unwrap();
        assert!(a.ended(3) && !a.ended(3));
        assert_eq!((a.waiting(), a.num_runs()), ((1, 0), 2));
    }

    #[test]
    fn counts_tokens_but_lets_a_single_long_prompt_in() {
        let a = admission();
        a.admit(1).unwrap();
        a.charge(1, 50).unwrap();
        a.admit(2).unwrap();
        assert_eq!(a.charge(2, 1).unwrap_err().code(), ErrorCode::QueueFull);
        a.ended(2);
        a.started(1);
        a.started(1);
        assert_eq!(a.waiting(), (0, 0));
    }

    #[test]
    fn counts_bytes_until_the_end_of_their_call() {
        let a = Admission::new(&Limits { max_queued_bytes: 100, ..Limits::default() });
        for run in 1..=3 {
            a.admit(run).unwrap();
        }
        let error = a.charge_bytes(1, 101).unwrap_err();
        assert_eq!((error.code(), error.param()), (ErrorCode::InvalidArgument, Some("inputs")));
        a.charge_bytes(1, 60).unwrap();
        a.started(1);
        assert_eq!(a.charge_bytes(2, 50).unwrap_err().code(), ErrorCode::QueueFull);
        a.ended(1);
        a.charge_bytes(2, 100).unwrap();
        a.take_all();
        a.admit(4).unwrap();
        a.charge_bytes(4, 100).unwrap();
    }

    #[test]
    fn an_abort_is_noted_once_and_closing_wins() {
        let a = admission();
        assert!(!a.abort(1), "not in");
        a.admit(1).unwrap();
        assert!(a.abort(1) && !a.abort(1) && a.is_aborted(1));
        a.shut(Error::new(ErrorCode::WorkerLost, "gone"));
        assert_eq!(a.admit(2).unwrap_err().code(), ErrorCode::WorkerLost);
        a.close(Duration::from_secs(5));
        a.close(Duration::from_secs(1));
        assert_eq!(a.admit(2).unwrap_err().code(), ErrorCode::Closed);
        let control = a.take_control();
        assert_eq!((control.aborted, control.close), (vec![1], Some(Duration::from_secs(1))));
    }
}
