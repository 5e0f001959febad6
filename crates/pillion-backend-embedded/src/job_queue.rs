//! The way of jobs to the Python thread.
//!
//! No channel of the usual kind: those spin for a few microseconds before they sleep, in the hope of a job, and where both sides share a
//! processor that is time which the other side waits for. Nor would it help where they do not: a forward pass takes longer.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread::{self, Thread},
};

/// Bounded, first in first out, from any thread to one.
pub(crate) struct JobQueue<T> {
    jobs: Mutex<VecDeque<T>>,
    max: usize,
    taker: OnceLock<Thread>,
}

impl<T> JobQueue<T> {
    /// For at most so many jobs.
    pub(crate) fn new(max: usize) -> Self {
        Self { jobs: Mutex::new(VecDeque::with_capacity(max)), max, taker: OnceLock::new() }
    }

    /// Never waits; gives the job back if there is no room.
    pub(crate) fn push(&self, job: T) -> Result<(), T> {
        {
            let mut jobs = self.lock();
            if jobs.len() >= self.max {
                return Err(job);
            }
            jobs.push_back(job);
        }
        // Before there is a taker nobody sleeps.
        if let Some(taker) = self.taker.get() {
            taker.unpark();
        }
        Ok(())
    }

    /// Waits for a job. For one thread only, which then is the taker for ever.
    pub(crate) fn take(&self) -> T {
        self.taker.get_or_init(thread::current);
        loop {
            if let Some(job) = self.lock().pop_front() {
                return job;
            }
            // A job that came since is not slept through: its `unpark` ends this at once. To give the processor away first would save a
            // caller in Rust that shares it a microsecond, and cost one in JS seven: who is woken by a job runs it before the caller goes on.
            thread::park();
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> std::fmt::Debug for JobQueue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobQueue").field("len", &self.lock().len()).field("max", &self.max).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_come_in_order_and_find_a_bound() {
        let queue = JobQueue::new(2);
        assert_eq!((queue.push(1), queue.push(2), queue.push(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!(queue.take(), 1);
        assert_eq!(queue.push(4), Ok(()));
        assert_eq!((queue.take(), queue.take()), (2, 4));
    }

    #[test]
    fn no_job_is_slept_through() {
        const EACH: usize = 5_000;
        let queue = JobQueue::new(4);
        thread::scope(|scope| {
            for from in 0..2 {
                let queue = &queue;
                scope.spawn(move || {
                    for number in 0..EACH {
                        let mut job = (from, number);
                        while let Err(back) = queue.push(job) {
                            job = back;
                            thread::yield_now();
                        }
                    }
                });
            }
            let mut next = [0, 0];
            for _ in 0..2 * EACH {
                let (from, number): (usize, usize) = queue.take();
                assert_eq!(number, next[from]);
                next[from] += 1;
            }
        });
    }
}
