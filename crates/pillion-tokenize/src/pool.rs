//! The threads that tokenize: our own, kept alive, and neither libuv's nor rayon's global ones.

use std::sync::{Mutex, OnceLock, PoisonError};

use rayon::prelude::*;

use crate::{
    error::{TokenizeError, guard},
    placement::Placement,
};

/// More threads than this bring nothing and cost caches.
const MAX_THREADS: usize = 256;

/// A fixed set of threads.
pub struct Pool {
    /// None where the system gives no thread at all: then the callers work.
    threads: Option<rayon::ThreadPool>,
    placement: Placement,
}

static POOL: OnceLock<Pool> = OnceLock::new();
/// Set before the first use. The lock is held only to read or write it.
static NUM_THREADS: Mutex<Option<usize>> = Mutex::new(None);

/// The process's pool, started at the first call with as many threads as the process may use cores (CPU affinity and cgroup quota count),
/// or as [`set_num_threads`] said.
pub fn pool() -> &'static Pool {
    POOL.get_or_init(|| {
        let wanted = *NUM_THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        Pool::new(wanted.unwrap_or_else(default_threads))
    })
}

/// Says how many threads [`pool`] shall have. Refused once the pool runs with another number.
pub fn set_num_threads(num_threads: usize) -> Result<(), TokenizeError> {
    if num_threads == 0 || num_threads > MAX_THREADS {
        return Err(TokenizeError::argument("threads", format!("an integer from 1 to {MAX_THREADS}"), num_threads));
    }
    *NUM_THREADS.lock().unwrap_or_else(PoisonError::into_inner) = Some(num_threads);
    match POOL.get() {
        Some(pool) if pool.num_threads() != num_threads => Err(TokenizeError::argument(
            "threads",
            format!("set before the first use; the pool already runs {} threads", pool.num_threads()),
            num_threads,
        )),
        _ => Ok(()),
    }
}

/// How many threads the pool has unless told otherwise.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_THREADS)
}

impl Pool {
    /// A pool of its own, for tests and for those who want more than one.
    pub fn new(num_threads: usize) -> Self {
        let build = |threads: usize| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(|i| format!("pillion-tokenize-{i}"))
                .build()
        };
        // Some containers allow few threads or none.
        let threads = build(num_threads.clamp(1, MAX_THREADS)).or_else(|_| build(1)).ok();
        let placement = Placement::new(threads.as_ref().map_or(0, rayon::ThreadPool::current_num_threads));
        Self { threads, placement }
    }

    /// How many threads it has; 1 if callers have to do the work.
    pub fn num_threads(&self) -> usize {
        self.threads.as_ref().map_or(1, rayon::ThreadPool::current_num_threads)
    }

    /// Runs a job on one of the threads and returns at once. A job that panics ends alone.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        let job = move || {
            // A panic that left a rayon job would end the process. The job's owner sees it by its own means.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
        };
        match &self.threads {
            Some(threads) => threads.spawn(job),
            None => job(),
        }
    }

    /// Hands each item to `work`, on all threads, and waits; results come in the items' order. From inside the pool the caller helps.
    pub(crate) fn map<I: Sync, T: Send>(
        &self,
        items: &[I],
        work: impl Fn(&I) -> Result<T, TokenizeError> + Sync,
    ) -> Result<Vec<T>, TokenizeError> {
        let work = |item: &I| {
            let _at_work = rayon::current_thread_index().and_then(|thread| self.placement.begin(thread));
            guard(|reason| TokenizeError::Panicked { reason }, || work(item))
        };
        match &self.threads {
            Some(threads) => threads.install(|| items.par_iter().map(work).collect()),
            None => items.iter().map(work).collect(),
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("num_threads", &self.num_threads()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_job_that_panics_ends_alone() {
        let pool = Pool::new(1);
        let (send, receive) = mpsc::channel();
        pool.spawn(|| panic!("on purpose"));
        pool.spawn(move || send.send(std::thread::current().name().map(str::to_owned)).unwrap());
        assert_eq!(receive.recv().unwrap().as_deref(), Some("pillion-tokenize-0"));
    }

    #[test]
    fn every_pool_does_all_the_work_in_order() {
        for pool in [Pool::new(1), Pool::new(3), Pool { threads: None, placement: Placement::new(0) }] {
            let items: Vec<u32> = (0..100).collect();
            assert_eq!(pool.map(&items, |i| Ok(i * 2)).unwrap(), items.iter().map(|i| i * 2).collect::<Vec<_>>());
            let error = pool.map(&items, |i| if *i == 50 { panic!("bad {i}") } else { Ok(()) }).unwrap_err();
            assert_eq!(error, TokenizeError::Panicked { reason: "bad 50".into() });
            let (send, receive) = mpsc::channel();
            pool.spawn(move || send.send(()).unwrap());
            receive.recv().unwrap();
            assert!(pool.num_threads() >= 1);
        }
    }

    #[test]
    fn absurd_thread_counts_are_refused() {
        for bad in [0, MAX_THREADS + 1, usize::MAX] {
            assert!(set_num_threads(bad).is_err(), "{bad}");
        }
    }
}
