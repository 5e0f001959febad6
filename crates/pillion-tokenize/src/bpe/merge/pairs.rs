//! The pairs of symbols that merge, found with one look into memory: a perfect hash table, in which each pair has a slot of its
//! own. Pairs are divided into buckets of a few, and each bucket has a pilot, the number that leads its pairs to slots that are
//! free (Fox, Chen and Heath, "A faster algorithm for constructing minimal perfect hash functions", 1992; the forms of the
//! hash and the pilot are those of Pibiri and Trani, "`PTHash`: Revisiting FCH minimal perfect hashing", 2021).

use crate::bpe::hash::{HashKey, slot_of};
use crate::bpe::map::Table;
use crate::bpe::simd::prefetch;

/// The bits of a symbol: three of them make a slot.
pub(super) const BITS: u32 = 21;
pub(super) const SYMBOL: u64 = (1 << BITS) - 1;
/// Symbols must be below this.
pub(super) const MAX_SYMBOLS: usize = SYMBOL as usize;
/// In place of a symbol, what a pair becomes that does not merge; it is above all symbols.
pub(super) const NO_SYMBOL: u32 = u32::MAX;

/// It has the pair of no slot.
const EMPTY: u64 = u64::MAX;
/// The average size of a bucket.
const BUCKET: usize = 3;

pub(super) struct PairTable {
    /// A pair of symbols in the high bits and what it becomes in the low ones.
    slots: Table<u64>,
    pilots: Vec<u8>,
    key: HashKey,
}

impl PairTable {
    /// A table of pairs, all different, and what they become.
    pub(super) fn new(pairs: &[([u32; 2], u32)]) -> Self {
        let slots: Vec<u64> =
            pairs.iter().map(|&([left, right], becomes)| pair(left, right) << BITS | u64::from(becomes)).collect();
        // One in some thousand keys has a bucket without a pilot; with a little more room that is rarer still.
        let mut room = slots.len() + slots.len() / 4 + 1;
        loop {
            if let Some(table) = Self::build(&slots, room, HashKey::random()) {
                return table;
            }
            room += room / 8 + 1;
        }
    }

    fn build(pairs: &[u64], room: usize, key: HashKey) -> Option<Self> {
        let mut table = Self { slots: Table::new(EMPTY, room), pilots: vec![0; pairs.len() / BUCKET + 1], key };
        let mut buckets: Vec<(usize, u64)> =
            pairs.iter().map(|&slot| (slot_of(table.hash(slot >> BITS), table.pilots.len()), slot)).collect();
        buckets.sort_unstable();
        let mut buckets: Vec<&[(usize, u64)]> = buckets.chunk_by(|one, other| one.0 == other.0).collect();
        // The largest first, while most slots are free.
        buckets.sort_by_key(|bucket| std::cmp::Reverse(bucket.len()));
        buckets.into_iter().try_for_each(|bucket| table.place(bucket)).map(|()| table)
    }

    /// Finds a pilot for the pairs of a bucket, and puts them into their slots.
    fn place(&mut self, bucket: &[(usize, u64)]) -> Option<()> {
        let places = |table: &Self, pilot: u8| {
            let at = bucket.iter().map(move |&(_, slot)| table.slot(table.hash(slot >> BITS), pilot));
            at.collect::<Vec<usize>>()
        };
        let (pilot, places) = (0..=u8::MAX).map(|pilot| (pilot, places(self, pilot))).find(|(_, places)| {
            let twice = (1..places.len()).any(|at| places[..at].contains(&places[at]));
            !twice && places.iter().all(|&at| self.slots[at] == EMPTY)
        })?;
        for (&(number, slot), at) in bucket.iter().zip(places) {
            self.pilots[number] = pilot;
            self.slots[at] = slot;
        }
        Some(())
    }

    #[inline(always)]
    fn hash(&self, pair: u64) -> u64 {
        self.key.one(pair)
    }

    #[inline(always)]
    fn slot(&self, hash: u64, pilot: u8) -> usize {
        let mixed = hash ^ u64::from(pilot).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        slot_of(mixed.wrapping_mul(0xd6e8_feb8_6659_fd93), self.slots.len())
    }

    /// The slot in which the pair would stand; its memory is brought near without waiting for it.
    #[inline(always)]
    pub(super) fn touch(&self, left: u32, right: u32) -> u32 {
        let hash = self.hash(pair(left, right));
        let slot = self.slot(hash, self.pilots[slot_of(hash, self.pilots.len())]);
        prefetch(&self.slots, slot);
        slot as u32
    }

    /// What the pair becomes whose slot this is, or [`NO_SYMBOL`].
    #[inline(always)]
    pub(super) fn read(&self, slot: u32, left: u32, right: u32) -> u32 {
        let slot = self.slots[slot as usize];
        if slot >> BITS == pair(left, right) { (slot & SYMBOL) as u32 } else { NO_SYMBOL }
    }

    /// What the pair becomes, or [`NO_SYMBOL`].
    #[inline(always)]
    pub(super) fn get(&self, left: u32, right: u32) -> u32 {
        self.read(self.touch(left, right), left, right)
    }
}

#[inline(always)]
fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << BITS | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_becomes_its_own_and_others_do_not_merge() {
        for len in [0, 1, 2, 7, 100, 30_000] {
            let pairs: Vec<([u32; 2], u32)> = (0..len).map(|at| ([at * 7 % 1_009, at], at + 256)).collect();
            let table = PairTable::new(&pairs);
            for &([left, right], becomes) in &pairs {
                assert_eq!(table.get(left, right), becomes);
                assert_eq!(table.get(left + 1_009, right), NO_SYMBOL);
                assert_eq!(table.get(right + 1_010, left), NO_SYMBOL);
            }
        }
    }

    #[test]
    fn the_largest_symbols_have_room() {
        let last = MAX_SYMBOLS as u32 - 1;
        let table = PairTable::new(&[([last, last], last), ([0, 0], 0)]);
        assert_eq!((table.get(last, last), table.get(0, 0), table.get(0, last)), (last, 0, NO_SYMBOL));
    }
}
