//! What the engine's thread waits at: its queue has one, so that a worker of another process can wake it with no thread in between.
//!
//! Where there is none, as on other systems than Linux, the thread waits at the queue itself.

#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "what belongs to the bell"))]

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendError, Sender, TrySendError};
use pillion_core::BackendEvents;

/// Made before the engine is if a backend is started before it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bell(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    #[cfg(target_os = "linux")]
    eventfd: Option<Arc<std::os::fd::OwnedFd>>,
    /// Whether the thread sleeps or is about to.
    sleeps: AtomicBool,
    /// Whether another process ended the last sleep.
    #[cfg(target_os = "linux")]
    is_rung: AtomicBool,
}

impl Bell {
    /// A new one; on a system without, or that has no descriptor left, one that is not used.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            #[cfg(target_os = "linux")]
            eventfd: linux::create(),
            sleeps: AtomicBool::new(false),
            #[cfg(target_os = "linux")]
            is_rung: AtomicBool::new(false),
        }))
    }

    /// Names it to a backend, whose events must go to the engine's thread.
    #[must_use]
    pub fn tell(&self, events: BackendEvents) -> BackendEvents {
        let events = events.awaited();
        #[cfg(target_os = "linux")]
        let events = events.with_bell(self.0.eventfd.clone());
        events
    }
}

impl Default for Bell {
    fn default() -> Self {
        Self::new()
    }
}

/// A queue's end for whoever sends.
#[derive(Debug)]
pub(crate) struct QueueSender<T> {
    queue: Sender<T>,
    bell: Bell,
}

impl<T> Clone for QueueSender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), bell: self.bell.clone() }
    }
}

impl<T> QueueSender<T> {
    /// Waits for room.
    pub(crate) fn send(&self, event: T) -> Result<(), SendError<T>> {
        self.queue.send(event)?;
        self.bell.wake();
        Ok(())
    }

    pub(crate) fn try_send(&self, event: T) -> Result<(), TrySendError<T>> {
        self.queue.try_send(event)?;
        self.bell.wake();
        Ok(())
    }
}

/// The engine's end.
#[derive(Debug)]
pub(crate) struct QueueReceiver<T> {
    pub(crate) queue: Receiver<T>,
    bell: Bell,
}

/// Bounded.
pub(crate) fn queue<T>(max: usize, bell: Bell) -> (QueueSender<T>, QueueReceiver<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(max);
    (QueueSender { queue: sender, bell: bell.clone() }, QueueReceiver { queue: receiver, bell })
}

impl<T> QueueReceiver<T> {
    /// Waits for an event, for an answer of another process, or until the time is over, and leaves the first event in `batch`. Gives how many
    /// answers were rung; an error once nobody can send any more.
    pub(crate) fn wait(&self, until: Option<Instant>, batch: &mut Vec<T>) -> Result<u32, ()> {
        #[cfg(target_os = "linux")]
        if let Some(eventfd) = &self.bell.0.eventfd {
            return Ok(self.wait_at(eventfd, until));
        }
        let first = match until {
            None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => self.queue.recv_deadline(at),
        };
        match first {
            Ok(event) => batch.push(event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(()),
        }
        Ok(0)
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        os::fd::OwnedFd,
        sync::{Arc, atomic::Ordering},
        thread,
        time::Instant,
    };

    use rustix::{
        event::{EventfdFlags, PollFd, PollFlags, Timespec},
        io::Errno,
    };

    use super::{Bell, QueueReceiver};

    /// What a wake-up of this process adds; answers of another one are counted below it.
    const WAKE: u64 = 1 << 32;

    pub(super) fn create() -> Option<Arc<OwnedFd>> {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC).ok().map(Arc::new)
    }

    impl Bell {
        /// After something was queued.
        pub(super) fn wake(&self) {
            if let Some(eventfd) = &self.0.eventfd
                && self.0.sleeps.swap(false, Ordering::SeqCst)
            {
                while rustix::io::write(eventfd, &WAKE.to_ne_bytes()) == Err(Errno::INTR) {}
            }
        }
    }

    impl<T> QueueReceiver<T> {
        pub(super) fn wait_at(&self, eventfd: &OwnedFd, until: Option<Instant>) -> u32 {
            if !self.queue.is_empty() {
                // However much is queued, answers are taken between.
                return if is_rung(eventfd, Some(Instant::now())) { take(eventfd) } else { 0 };
            }
            // Who answers and shares the processor is given it before it need wake us; another process rings in any case.
            if !self.bell.0.is_rung.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            self.bell.0.sleeps.store(true, Ordering::SeqCst);
            // Whoever queues from now on wakes us.
            let rung = if self.queue.is_empty() && is_rung(eventfd, until) { take(eventfd) } else { 0 };
            self.bell.0.sleeps.store(false, Ordering::SeqCst);
            self.bell.0.is_rung.store(rung > 0, Ordering::Relaxed);
            rung
        }
    }

    /// How many answers were rung, after a wait for the first ring.
    fn take(eventfd: &OwnedFd) -> u32 {
        let mut count = [0; 8];
        while rustix::io::read(eventfd, &mut count) == Err(Errno::INTR) {}
        (u64::from_ne_bytes(count) % WAKE) as u32
    }

    /// Whether [`take`] may be called: with no deadline it may wait.
    fn is_rung(eventfd: &OwnedFd, until: Option<Instant>) -> bool {
        let Some(until) = until else { return true };
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
        let mut fds = [PollFd::new(eventfd, PollFlags::IN)];
        // An interrupted wait is one in which nothing happened: the caller looks at the time and waits again.
        rustix::event::poll(&mut fds, Some(&timeout)).is_ok_and(|n| n > 0)
    }
}

#[cfg(not(target_os = "linux"))]
impl Bell {
    #[expect(clippy::unused_self, reason = "the queue wakes by itself")]
    fn wake(&self) {}
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn no_event_is_slept_through() {
        const EACH: usize = 5_000;
        let (sender, receiver) = queue(4, Bell::new());
        thread::scope(|scope| {
            for from in 0..2 {
                let sender = sender.clone();
                scope.spawn(move || {
                    for number in 0..EACH {
                        sender.send((from, number)).unwrap();
                    }
                });
            }
            let mut next = [0, 0];
            let mut batch: Vec<(usize, usize)> = Vec::new();
            while next != [EACH, EACH] {
                assert_eq!(receiver.wait(None, &mut batch), Ok(0));
                batch.extend(receiver.queue.try_iter());
                for (from, number) in batch.drain(..) {
                    assert_eq!(number, next[from]);
                    next[from] += 1;
                }
            }
        });
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let (sender, receiver) = queue(4, Bell::new());
        let until = Instant::now() + Duration::from_millis(2);
        let mut batch = Vec::new();
        while Instant::now() < until {
            assert_eq!(receiver.wait(Some(until), &mut batch), Ok(0));
        }
        assert!(batch.is_empty());
        sender.try_send(7).unwrap();
        assert_eq!(receiver.wait(Some(until), &mut batch), Ok(0));
        batch.extend(receiver.queue.try_iter());
        assert_eq!(batch, [7]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn answers_that_another_process_rings_are_counted_beside_events() {
        let bell = Bell::new();
        let events = bell.tell(BackendEvents::new(|_| {}));
        let ring = || rustix::io::write(events.bell().unwrap(), &1u64.to_ne_bytes()).unwrap();
        let (sender, receiver) = queue(4, bell);
        let mut batch = Vec::new();
        ring();
        ring();
        // As if the engine slept already.
        receiver.bell.0.sleeps.store(true, std::sync::atomic::Ordering::SeqCst);
        sender.send(7).unwrap();
        assert_eq!(receiver.wait(None, &mut batch), Ok(2), "answers are taken however much is queued");
        assert_eq!(receiver.wait(None, &mut batch), Ok(0));
        batch.extend(receiver.queue.try_iter());
        ring();
        assert_eq!(receiver.wait(Some(Instant::now() + Duration::from_secs(60)), &mut batch), Ok(1));
        assert_eq!(batch, [7]);
    }
}
