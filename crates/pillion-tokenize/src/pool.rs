//! The threads that tokenize: our own, kept alive, and neither libuv's nor rayon's global ones.

use std::sync::{Mutex, OnceLock, PoisonError};

use crate::error::{TokenizeError, panic_text};

/// More threads than this bring nothing and cost caches.
const MAX_THREADS: usize = 256;

/// A fixed set of threads.
pub struct Pool {
    threads: rayon::ThreadPool,
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
        // Where the system refuses threads, one that borrows the caller's is still a pool.
        let threads = build(num_threads.clamp(1, MAX_THREADS))
            .or_else(|_| build(1))
            .or_else(|_| rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build());
        Self { threads: threads.expect("a pool of the current thread starts no thread: this is a bug") }
    }

    /// How many threads it has.
    pub fn num_threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// Runs a job on one of the threads and returns at once. A job that panics ends alone.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        self.threads.spawn(move || {
            // A panic that left a rayon job would end the process. The job's owner sees it by its own means.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
        });
    }

    /// Runs a function on the pool and waits for it; parallel iterators in it use this pool. From inside the pool it runs right there.
    pub fn install<T: Send>(&self, run: impl FnOnce() -> Result<T, TokenizeError> + Send) -> Result<T, TokenizeError> {
        self.threads.install(|| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
                .unwrap_or_else(|payload| Err(TokenizeError::Panicked { reason: panic_text(&*payload) }))
        })
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
    fn a_panic_inside_install_is_an_error() {
        let error = Pool::new(2).install(|| -> Result<(), _> { panic!("bad {}", 1) }).unwrap_err();
        assert_eq!(error, TokenizeError::Panicked { reason: "bad 1".into() });
    }

    #[test]
    fn absurd_thread_counts_are_refused() {
        for bad in [0, MAX_THREADS + 1, usize::MAX] {
            assert!(set_num_threads(bad).is_err(), "{bad}");
        }
    }
}
