//! A page in which the worker holds a lock for as long as it lives.
//!
//! The end of a process that has loaded a model takes tenths of a second before its parent is told and its files are closed, because its
//! memory is taken apart first. A lock of the kind that survives its holder ("robust futex") is let go before that. The worker's side
//! is `python/pillion/_life.py`; a worker that cannot do it leaves the word 0, and then its end is seen later.

use std::{
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use pillion_core::{Error, ErrorCode, Result};
use rustix::{event::Timespec, thread::futex};

use super::region::Region;

/// Where the lock's word is.
const WORD: usize = 0;
/// Bounds how long [`Watch::stop`] waits for its thread if somebody writes the word behind our back.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The page.
#[derive(Debug)]
pub(crate) struct Life(Arc<Region>);

/// A thread that waits for the lock.
#[derive(Debug)]
pub(crate) struct Watch {
    region: Arc<Region>,
    is_stopped: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Life {
    /// `None` on a system that has no such lock.
    pub(crate) fn new() -> Result<Option<Self>> {
        Region::create("pillion-life", rustix::param::page_size()).map(|region| Some(Self(Arc::new(region))))
    }

    /// To be sent to the worker.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.0.file()
    }

    /// Calls `ended` once the worker lets go of the lock; `None` if it does not hold it.
    pub(crate) fn watch(self, ended: impl FnOnce() + Send + 'static) -> Result<Option<Watch>> {
        let held = word(&self.0).load(Ordering::Acquire);
        if held == 0 {
            return Ok(None);
        }
        let (region, is_stopped) = (Arc::clone(&self.0), Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&is_stopped);
        let thread = thread::Builder::new()
            .name("pillion-life".to_owned())
            .spawn(move || {
                while word(&region).load(Ordering::Acquire) == held && !flag.load(Ordering::Acquire) {
                    // Whatever it was that ended the wait, the word says what is so.
                    let _ = futex::wait(word(&region), futex::Flags::empty(), held, Some(&PATIENCE));
                }
                if !flag.load(Ordering::Acquire) {
                    ended();
                }
            })
            .map_err(|e| {
                Error::new(ErrorCode::OutOfMemory, "a thread to watch the worker could not be started").with_cause(e)
            })?;
        Ok(Some(Watch { region: self.0, is_stopped, thread }))
    }
}

impl Watch {
    /// Ends the watch.
    pub(crate) fn stop(self) {
        self.is_stopped.store(true, Ordering::Release);
        word(&self.region).store(0, Ordering::Release);
        let _ = futex::wake(word(&self.region), futex::Flags::empty(), u32::MAX >> 1);
        // A panic there was a bug of ours, and the worker has ended anyway.
        let _ = self.thread.join();
    }
}

fn word(region: &Region) -> &AtomicU32 {
    region.word(WORD).expect("a page is longer than a word: this is a bug")
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    fn watched(value: u32) -> (Arc<Region>, Option<Watch>, mpsc::Receiver<()>) {
        let life = Life::new().unwrap().unwrap();
        let region = Arc::clone(&life.0);
        word(&region).store(value, Ordering::Release);
        let (send, ended) = mpsc::channel();
        let watch = life.watch(move || send.send(()).unwrap()).unwrap();
        (region, watch, ended)
    }

    #[test]
    fn a_change_of_the_word_is_told() {
        let (region, watch, ended) = watched(0x8000_0007);
        word(&region).store(0xc000_0000, Ordering::Release);
        futex::wake(word(&region), futex::Flags::empty(), 1).unwrap();
        ended.recv_timeout(Duration::from_secs(60)).unwrap();
        watch.unwrap().stop();
    }

    #[test]
    fn a_watch_that_is_stopped_tells_nothing() {
        let (_, watch, ended) = watched(7);
        watch.unwrap().stop();
        assert!(ended.recv().is_err());
    }

    #[test]
    fn where_nobody_holds_the_lock_nothing_is_watched() {
        assert!(watched(0).1.is_none());
    }
}
