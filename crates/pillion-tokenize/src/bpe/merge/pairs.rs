//! The pairs of tokens that merge: rank and result, in one place in memory.

use crate::bpe::hash::{HashKey, slot_of};
use crate::bpe::map::Table;
use crate::bpe::simd::prefetch;

/// Ranks must be below this, so that a rank and a place fit into one number.
pub(in crate::bpe) const MAX_MERGES: usize = (1 << 25) - 1;
/// The rank of a pair that does not merge: it is no rank.
pub(super) const NO_RANK: u32 = u32::MAX;

/// How a pair merges.
#[derive(Clone, Copy)]
pub(super) struct Joined {
    pub(super) rank: u32,
    /// The token that the two become.
    pub(super) id: u32,
}

#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Slot {
    pair: u64,
    joined: Joined,
}

/// It has the rank of a pair that does not merge, and the key of no pair.
const EMPTY: Slot = Slot { pair: u64::MAX, joined: Joined { rank: NO_RANK, id: 0 } };

pub(super) struct PairTable {
    slots: Table<Slot>,
    key: HashKey,
}

impl PairTable {
    pub(super) fn new(pairs: usize, key: HashKey) -> Self {
        Self { slots: Table::new(EMPTY, pairs + pairs / 2 + 1), key }
    }

    #[inline(always)]
    fn pair(left: u32, right: u32) -> u64 {
        u64::from(left) << 32 | u64::from(right)
    }

    /// The slot of `pair`, or the empty one where it would be: there are more slots than pairs.
    #[inline(always)]
    fn find(&self, pair: u64) -> usize {
        let mut at = slot_of(self.key.one(pair), self.slots.len());
        while self.slots[at].pair != pair && self.slots[at].pair != EMPTY.pair {
            at += 1;
            if at == self.slots.len() {
                at = 0;
            }
        }
        at
    }

    /// How the pair merges; with the rank [`NO_RANK`], it does not.
    #[inline(always)]
    pub(super) fn get(&self, left: u32, right: u32) -> Joined {
        self.slots[self.find(Self::pair(left, right))].joined
    }

    /// Begins to bring the pair's slot near, without waiting for it.
    #[inline(always)]
    pub(super) fn touch(&self, left: u32, right: u32) {
        prefetch(&self.slots, slot_of(self.key.one(Self::pair(left, right)), self.slots.len()));
    }

    pub(super) fn insert(&mut self, left: u32, right: u32, joined: Joined) {
        let pair = Self::pair(left, right);
        let at = self.find(pair);
        self.slots[at] = Slot { pair, joined };
    }
}
