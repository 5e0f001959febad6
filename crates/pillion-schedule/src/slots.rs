//! Slots of the worker's cache and the tokens that it can hold.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Hands out the lowest free slot, so that the running rows stay dense: the worker can then use a view of its cache instead of a gather.
#[derive(Debug)]
pub struct SlotAllocator {
    free: BinaryHeap<Reverse<u32>>,
    /// Tokens reserved per slot; 0 for a free one.
    reserved: Vec<u64>,
    free_tokens: u64,
}

impl SlotAllocator {
    /// All of `num_slots` are free, and `kv_tokens` may be reserved over all of them.
    pub fn new(num_slots: u32, kv_tokens: u64) -> Self {
        Self {
            free: (0..num_slots).map(Reverse).collect(),
            reserved: vec![0; num_slots as usize],
            free_tokens: kv_tokens,
        }
    }

    /// The lowest free slot with `tokens` reserved for it, or `None` if either is lacking.
    pub fn allocate(&mut self, tokens: u64) -> Option<u32> {
        if tokens > self.free_tokens {
            return None;
        }
        let Reverse(slot) = self.free.pop()?;
        self.reserved[slot as usize] = tokens;
        self.free_tokens -= tokens;
        Some(slot)
    }

    /// Takes a slot back. The worker must be told in its next step.
    pub fn free(&mut self, slot: u32) {
        self.free_tokens += std::mem::take(&mut self.reserved[slot as usize]);
        self.free.push(Reverse(slot));
    }

    /// Tokens that may still be reserved.
    pub fn free_tokens(&self) -> u64 {
        self.free_tokens
    }

    /// Slots that are free.
    pub fn num_free(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_lowest_slot_and_counts_tokens() {
        let mut slots = SlotAllocator::new(3, 100);
        assert_eq!(slots.allocate(50), Some(0));
        assert_eq!(slots.allocate(50), Some(1));
        assert_eq!(slots.allocate(1), None, "no tokens left");
        slots.free(0);
        assert_eq!(slots.free_tokens(), 50);
        assert_eq!(slots.allocate(10), Some(0));
        assert_eq!(slots.allocate(10), Some(2));
        assert_eq!(slots.allocate(1), None, "no slots left");
        slots.free(2);
        slots.free(0);
        slots.free(1);
        assert_eq!((slots.num_free(), slots.free_tokens()), (3, 100));
    }
}
