//! The rank of each pair of tokens that merges, one number a slot.

use crate::bpe::hash::{HashKey, slot_of};
use crate::bpe::simd::prefetch;

const RANK_BITS: u32 = 22;
const ID_BITS: u32 = 21;
/// Ranks must be below this.
pub(in crate::bpe) const MAX_MERGES: usize = (1 << RANK_BITS) - 1;
/// The rank of a pair that does not merge: it is no rank.
pub(in crate::bpe) const NO_RANK: u32 = (1 << RANK_BITS) - 1;
const EMPTY: u64 = u64::MAX;

pub(super) struct PairTable {
    slots: Vec<u64>,
    key: HashKey,
}

impl PairTable {
    pub(super) fn new(pairs: usize, key: HashKey) -> Self {
        Self { slots: vec![EMPTY; 2 * pairs + 1], key }
    }

    #[inline(always)]
    fn pair(left: u32, right: u32) -> u64 {
        u64::from(left) << ID_BITS | u64::from(right)
    }

    /// The slot of `pair`, or the empty one where it would be: there are more slots than pairs.
    #[inline(always)]
    fn find(&self, pair: u64) -> usize {
        let mut at = slot_of(self.key.one(pair), self.slots.len());
        while self.slots[at] != EMPTY && self.slots[at] >> RANK_BITS != pair {
            at += 1;
            if at == self.slots.len() {
                at = 0;
            }
        }
        at
    }

    /// The rank of the pair, or [`NO_RANK`].
    #[inline(always)]
    pub(super) fn rank(&self, left: u32, right: u32) -> u32 {
        // An empty slot has all bits of a rank set.
        (self.slots[self.find(Self::pair(left, right))] & u64::from(NO_RANK)) as u32
    }

    /// Begins to bring the pair's slot near, without waiting for it.
    #[inline(always)]
    pub(super) fn touch(&self, left: u32, right: u32) {
        prefetch(&self.slots, slot_of(self.key.one(Self::pair(left, right)), self.slots.len()));
    }

    pub(super) fn insert(&mut self, left: u32, right: u32, rank: u32) {
        let pair = Self::pair(left, right);
        let at = self.find(pair);
        self.slots[at] = pair << RANK_BITS | u64::from(rank);
    }
}
