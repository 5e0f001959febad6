//! The way of jobs to the Python thread.
//!
//! No channel of the usual kind: those spin for a few microseconds before they sleep, in the hope of a job, and where both sides share a
//! processor that is time which the other side waits for. Nor would it help where they do not: a forward pass takes longer.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread::{self, Thread},
    time::{Duration, Instant},
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

    /// Waits for a job; with `habit` if somebody does nothing but wait for the answer to the last one. For one thread only, which then is
    /// the taker for ever.
    pub(crate) fn take(&self, mut habit: Option<&mut Habit>) -> T {
        self.taker.get_or_init(thread::current);
        if let Some(job) = self.pop() {
            return job;
        }
        let since = habit.as_deref_mut().and_then(Habit::begin);
        if habit.as_ref().is_some_and(|habit| habit.yields) {
            thread::yield_now();
        }
        let job = loop {
            if let Some(job) = self.pop() {
                break job;
            }
            // A job that came since is not slept through: its `unpark` ends this at once.
            thread::park();
        };
        if let (Some(habit), Some(since)) = (habit, since) {
            habit.end(since);
        }
        job
    }

    fn pop(&self) -> Option<T> {
        self.lock().pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the taker gives the processor away once before it sleeps.
///
/// Who shares it and waits for the answer is back at once then, and its next job wakes nobody, which saves both sides a microsecond together. On a
/// busy machine the processor may come back late. So both are tried, and the one is kept with which the wait from an answer to the next
/// job is shorter. With a caller that goes on with other things, as JS does, it is not even tried: a sleeper that a call wakes runs before
/// them, and the answer is there when they are done; once that has been lost it does not come back, and costs seven microseconds a step.
#[derive(Debug, Default)]
pub(crate) struct Habit {
    yields: bool,
    takes: u32,
    /// Of this block.
    waited: Duration,
    slept: Duration,
    yielded: Duration,
}

impl Habit {
    /// Waits in a row that are of one kind: what one of them saves shows in the next.
    const BLOCK: u32 = 16;
    /// The last ones of a block, whose time is taken.
    const TIMED: u32 = 4;
    /// One block in so many does what seems worse.
    const TRIES_OTHER: u32 = 16;
    /// A longer wait says nothing of how it was spent.
    const MAX: Duration = Duration::from_micros(500);

    fn begin(&mut self) -> Option<Instant> {
        let at = self.takes % Self::BLOCK;
        if at == 0 {
            self.next_block();
        }
        self.takes = self.takes.wrapping_add(1);
        (at >= Self::BLOCK - Self::TIMED).then(Instant::now)
    }

    fn end(&mut self, since: Instant) {
        self.waited += since.elapsed().min(Self::MAX);
    }

    fn next_block(&mut self) {
        let waited = std::mem::take(&mut self.waited);
        let average = if self.yields { &mut self.yielded } else { &mut self.slept };
        // Now and then somebody else has had the processor, which says little of the next time.
        *average = if average.is_zero() { waited } else { (*average * 3 + waited.min(*average * 2)) / 4 };
        let tries_other = (self.takes / Self::BLOCK).is_multiple_of(Self::TRIES_OTHER);
        self.yields = (self.yielded < self.slept) ^ tries_other;
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
        assert_eq!(queue.take(None), 1);
        assert_eq!(queue.push(4), Ok(()));
        assert_eq!((queue.take(None), queue.take(None)), (2, 4));
    }

    #[test]
    fn the_habit_with_which_waits_are_shorter_is_kept() {
        const ROUND: u32 = Habit::BLOCK * Habit::TRIES_OTHER;
        for (yielded, slept) in [(10, 90), (90, 10)] {
            let mut habit = Habit::default();
            let mut yields = 0;
            for take in 0..3 * ROUND {
                habit.begin();
                // The first round finds out.
                yields += u32::from(habit.yields && take >= ROUND);
                habit.waited += Duration::from_micros(if habit.yields { yielded } else { slept });
            }
            let tried = 2 * Habit::BLOCK;
            let expected = if yielded < slept { 2 * ROUND - tried } else { tried };
            assert_eq!(yields, expected, "{yielded} and {slept}");
        }
    }

    #[test]
    fn no_job_is_slept_through() {
        const EACH: usize = 5_000;
        let (queue, mut habit) = (JobQueue::new(4), Habit::default());
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
                let (from, number): (usize, usize) = queue.take(Some(&mut habit));
                assert_eq!(number, next[from]);
                next[from] += 1;
            }
        });
    }
}
