//! Keeps threads of a pool that work at the same time on cores of their own.
//!
//! Linux at times leaves two busy threads on one core beside an idle one for tens of milliseconds, above all with two cores. A thread cannot see
//! that it waits for a core. But one that runs can see that another began a piece of work on this very core and has not ended it while it
//! did one itself: then that one waits, and the one that runs moves to a core on which none of them works.

use std::sync::atomic::{AtomicU64, Ordering};

/// Where the threads of a pool are at work.
pub(crate) struct Placement {
    seats: Box<[Seat]>,
    /// Pieces of work that were begun, by all threads.
    begun: AtomicU64,
}

/// One thread's; no other writes to it. Padded, since each writes to its own often.
#[derive(Default)]
#[repr(align(64))]
struct Seat {
    /// What it does: a [`work`], or [`NONE`].
    now: AtomicU64,
    /// Another's work that it found on its own core when it last began.
    met: AtomicU64,
    /// Another's work for which it has moved. Once is enough: if that one still seems to wait, it has moved too, and its work is long.
    moved_for: AtomicU64,
}

/// A piece of work that a thread does until this is dropped.
pub(crate) struct AtWork<'a>(&'a Seat);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.now.store(NONE, Ordering::Relaxed);
    }
}

const NONE: u64 = 0;
const CORE_BITS: u32 = 16;

/// The number of a piece of work, from 1, and the core on which it begins.
fn work(number: u64, core: usize) -> u64 {
    number << CORE_BITS | (core as u64 & ((1 << CORE_BITS) - 1))
}

fn core_of(work: u64) -> Option<usize> {
    (work != NONE).then_some((work & ((1 << CORE_BITS) - 1)) as usize)
}

impl Placement {
    pub(crate) fn new(threads: usize) -> Self {
        Self { seats: (0..threads).map(|_| Seat::default()).collect(), begun: AtomicU64::new(0) }
    }

    /// The calling thread, which has this number in the pool, begins a piece of work. Moves it if another waits for its core.
    pub(crate) fn begin(&self, thread: usize) -> Option<AtWork<'_>> {
        let seat = self.seats.get(thread)?;
        let core = system::current_core()?;
        if self.shall_move(thread, core) && system::move_away(core, self.others(thread).filter_map(core_of)) {
            Some(self.sit(seat, system::current_core()?))
        } else {
            Some(self.sit(seat, core))
        }
    }

    fn sit<'a>(&self, seat: &'a Seat, core: usize) -> AtWork<'a> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        seat.now.store(work(number, core), Ordering::Relaxed);
        AtWork(seat)
    }

    /// Whether another began on this core before this thread's last piece of work and is still at it.
    fn shall_move(&self, thread: usize, core: usize) -> bool {
        let seat = &self.seats[thread];
        let beside = self.others(thread).find(|work| core_of(*work) == Some(core)).unwrap_or(NONE);
        let met = seat.met.swap(beside, Ordering::Relaxed);
        let waits = beside != NONE && beside == met;
        waits && seat.moved_for.swap(beside, Ordering::Relaxed) != beside
    }

    /// What the other threads do.
    fn others(&self, thread: usize) -> impl Iterator<Item = u64> {
        let others = self.seats.iter().enumerate().filter(move |(other, _)| *other != thread);
        others.map(|(_, seat)| seat.now.load(Ordering::Relaxed)).filter(|work| *work != NONE)
    }
}

#[cfg(target_os = "linux")]
mod system {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

    pub(super) fn current_core() -> Option<usize> {
        Some(sched_getcpu()).filter(|core| *core < CpuSet::MAX_CPU)
    }

    /// Has the system move this thread to a core that it may use and that is neither this nor one of the taken. Says whether there was one. The
    /// choice of the cores that it may use stays as it was.
    pub(super) fn move_away(core: usize, taken: impl Iterator<Item = usize>) -> bool {
        let Ok(allowed) = sched_getaffinity(None) else { return false };
        let mut free = allowed;
        taken.chain([core]).for_each(|core| free.unset(core));
        // Refused where the host forbids it, as when all are taken: then the thread stays.
        let moved = free.count() > 0 && sched_setaffinity(None, &free).is_ok();
        moved && sched_setaffinity(None, &allowed).is_ok()
    }
}

/// Systems whose scheduler needs no help, or that have no say in it.
#[cfg(not(target_os = "linux"))]
mod system {
    pub(super) fn current_core() -> Option<usize> {
        None
    }

    pub(super) fn move_away(_core: usize, _taken: impl Iterator<Item = usize>) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a thread does, and whether it shall move then.
    enum Step {
        Begins { thread: usize, core: usize, moves: bool },
        Ends { thread: usize },
    }
    use Step::{Begins, Ends};

    fn begins(thread: usize, core: usize) -> Step {
        Begins { thread, core, moves: false }
    }

    fn moves(thread: usize, core: usize) -> Step {
        Begins { thread, core, moves: true }
    }

    #[test]
    fn a_thread_moves_once_for_one_that_waits_for_its_core() {
        let cases: [(&str, Vec<Step>); 6] = [
            ("alone", vec![begins(0, 3), begins(0, 3), begins(0, 3)]),
            ("apart", vec![begins(1, 2), begins(0, 3), begins(0, 3), begins(0, 3)]),
            ("waiting", vec![begins(1, 3), begins(0, 3), moves(0, 3), begins(0, 3), begins(0, 3), begins(0, 3)]),
            ("getting on", vec![begins(1, 3), begins(0, 3), begins(1, 3), begins(0, 3), begins(1, 3), begins(0, 3)]),
            ("done", vec![begins(1, 3), begins(0, 3), Ends { thread: 1 }, begins(0, 3), begins(0, 3)]),
            (
                "waiting again",
                vec![
                    begins(2, 0),
                    begins(1, 0),
                    begins(0, 0),
                    moves(0, 0),
                    begins(1, 0),
                    Ends { thread: 2 },
                    begins(0, 0),
                    moves(0, 0),
                ],
            ),
        ];
        for (name, steps) in cases {
            let placement = Placement::new(3);
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Begins { thread, core, moves } => {
                        assert_eq!(placement.shall_move(thread, core), moves, "{name}, step {number}");
                        std::mem::forget(placement.sit(&placement.seats[thread], core));
                    }
                    Ends { thread } => drop(AtWork(&placement.seats[thread])),
                }
            }
        }
    }

    #[test]
    fn a_thread_that_the_pool_does_not_have_is_left_alone() {
        assert!(Placement::new(2).begin(2).is_none());
        assert!(Placement::new(0).begin(0).is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn moving_away_leaves_the_choice_of_cores_as_it_was() {
        use rustix::thread::{CpuSet, sched_getaffinity};
        let cores = |set: &CpuSet| (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect::<Vec<_>>();
        std::thread::spawn(move || {
            let allowed = cores(&sched_getaffinity(None).unwrap());
            for _ in 0..20 {
                let core = system::current_core().unwrap();
                let elsewhere = allowed.iter().any(|other| *other != core);
                assert_eq!(system::move_away(core, std::iter::empty()), elsewhere);
                assert!(!system::move_away(core, allowed.iter().copied()), "all are taken");
                assert_eq!(cores(&sched_getaffinity(None).unwrap()), allowed);
            }
        })
        .join()
        .unwrap();
    }
}
