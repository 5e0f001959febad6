//! Sequences that wait for a slot.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use pillion_core::Sequence;

type Place = (Reverse<i32>, u64);

/// Higher priority first, then first come, first served. Every operation is logarithmic, so a long queue costs the scheduler nothing.
#[derive(Debug, Default)]
pub struct WaitingQueue {
    by_place: BTreeMap<Place, (u32, Sequence)>,
    place_of: HashMap<u32, Place>,
    num_tokens: u64,
}

impl WaitingQueue {
    /// Queues `sequence` as run `run`; `arrival` counts requests as they came in, not as they were tokenized.
    pub fn push(&mut self, run: u32, arrival: u64, sequence: Sequence) {
        let place = (Reverse(sequence.priority()), arrival);
        self.num_tokens += sequence.prompt_ids().len() as u64;
        self.place_of.insert(run, place);
        self.by_place.insert(place, (run, sequence));
    }

    /// The next in order, left in the queue.
    pub fn peek(&self) -> Option<&Sequence> {
        self.by_place.first_key_value().map(|(_, (_, sequence))| sequence)
    }

    /// Takes the next in order: its run, its arrival, and itself.
    pub fn pop(&mut self) -> Option<(u32, u64, Sequence)> {
        let ((_, arrival), (run, sequence)) = self.by_place.pop_first()?;
        self.forget(run, &sequence);
        Some((run, arrival, sequence))
    }

    /// Takes run `run` out, wherever it is.
    pub fn remove(&mut self, run: u32) -> Option<Sequence> {
        let place = self.place_of.get(&run).copied()?;
        let (_, sequence) = self.by_place.remove(&place)?;
        self.forget(run, &sequence);
        Some(sequence)
    }

    fn forget(&mut self, run: u32, sequence: &Sequence) {
        self.place_of.remove(&run);
        self.num_tokens -= sequence.prompt_ids().len() as u64;
    }

    /// Sequences that wait.
    pub fn len(&self) -> usize {
        self.by_place.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.by_place.is_empty()
    }

    /// Prompt tokens that wait.
    pub fn num_tokens(&self) -> u64 {
        self.num_tokens
    }
}
