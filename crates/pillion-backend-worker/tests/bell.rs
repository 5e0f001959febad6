//! A worker that wakes the thread that waits for its answers, with no thread in between.

#![cfg(all(target_os = "linux", not(feature = "portable")))]
#![expect(clippy::unwrap_used, reason = "tests; clippy knows only functions that are marked as such")]

mod common;

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    time::Instant,
};

use common::{LONG, fake, is_alive, signal, step, wait_until};
use pillion_backend_worker::{Transport, WorkerBackend, WorkerOptions};
use pillion_core::{Backend, BackendEvent, BackendEvents};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    process::Signal,
};

pub(crate) const TRANSPORT: Transport = Transport::Shm;

/// What a wake-up of this process adds to the bell.
const WAKE: u64 = 1 << 32;

/// What waits at the bell, as the engine's thread does.
struct Waiting {
    backend: WorkerBackend,
    bell: Arc<OwnedFd>,
    events: Receiver<BackendEvent>,
    answers: VecDeque<BackendEvent>,
}

impl Waiting {
    fn ready(options: WorkerOptions) -> Self {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let (send, events) = mpsc::channel();
        let mut backend = WorkerBackend::new(options);
        let ours = Arc::clone(&bell);
        let say = move |event| {
            // The receiver may have gone when the last events come.
            let _ = send.send(event);
            rustix::io::write(&ours, &WAKE.to_ne_bytes()).unwrap();
        };
        backend.start(BackendEvents::new(say).awaited().with_bell(Some(Arc::clone(&bell)))).unwrap();
        let mut waiting = Self { backend, bell, events, answers: VecDeque::new() };
        let first = waiting.next();
        assert!(matches!(first, BackendEvent::Ready(_)), "{first:?}");
        waiting
    }

    fn next(&mut self) -> BackendEvent {
        let until = Instant::now() + LONG;
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return answer;
            }
            match self.events.try_recv() {
                Ok(BackendEvent::Log(_) | BackendEvent::Progress(_)) => continue,
                Ok(event) => return event,
                Err(_) => {}
            }
            let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).unwrap();
            let mut fds = [PollFd::new(&self.bell, PollFlags::IN)];
            assert_ne!(poll(&mut fds, Some(&left)), Ok(0), "an event was to come");
            let mut count = [0; 8];
            rustix::io::read(&self.bell, &mut count).unwrap();
            let rung = u32::try_from(u64::from_ne_bytes(count) % WAKE).unwrap();
            self.backend.rung(rung, &mut |event| self.answers.push_back(event));
        }
    }

    fn expect_answer(&mut self, id: u64) {
        match self.next() {
            BackendEvent::StepDone(output) => assert_eq!((output.step_id, output.error), (id, None)),
            other => panic!("{other:?} in place of an answer"),
        }
    }

    fn pid(&self) -> u32 {
        self.backend.workers()[0].pid
    }
}

#[test]
fn answers_are_taken_by_who_waits() {
    let mut w = Waiting::ready(fake());
    for id in (0..200).step_by(2) {
        w.backend.submit(&step(id, &[])).unwrap();
        w.backend.submit(&step(id + 1, &[])).unwrap();
        w.expect_answer(id);
        w.expect_answer(id + 1);
    }
    // Rings without an answer, as those of a process that has ended may be heard late.
    rustix::io::write(&w.bell, &3u64.to_ne_bytes()).unwrap();
    w.backend.submit(&step(500, &[])).unwrap();
    w.expect_answer(500);
    // What was submitted is still answered, and then it ends.
    let pid = w.pid();
    w.backend.submit(&step(501, &[])).unwrap();
    w.backend.close(LONG);
    w.expect_answer(501);
    assert!(matches!(w.next(), BackendEvent::Closed));
    wait_until("the end of the process", || !is_alive(pid));
}

#[test]
fn what_nobody_came_to_in_time_is_answered_before_the_end() {
    let mut w = Waiting::ready(fake());
    for id in [7, 8] {
        w.backend.submit(&step(id, &[])).unwrap();
    }
    w.backend.close(LONG);
    wait_until("the end of the worker", || w.backend.workers()[0].state == "closed");
    w.expect_answer(7);
    w.expect_answer(8);
    assert!(matches!(w.next(), BackendEvent::Closed));
}

#[test]
fn the_worker_after_a_lost_one_rings_the_same_bell() {
    let mut w = Waiting::ready(fake());
    for id in 0..3 {
        w.backend.submit(&step(2 * id, &[])).unwrap();
        w.expect_answer(2 * id);
        // One may be answered, rung and not yet taken.
        w.backend.submit(&step(2 * id + 1, &[])).unwrap();
        signal(w.pid(), Signal::KILL);
        loop {
            match w.next() {
                BackendEvent::WorkerLost(_) => {}
                BackendEvent::StepDone(output) => assert_eq!(output.step_id, 2 * id + 1),
                BackendEvent::Ready(_) => break,
                other => panic!("{other:?} in place of a new worker"),
            }
        }
    }
}
