//! A table of short words and their tokens that any number of threads read and add to at the same time, without locks: a slot is written once,
//! and stays as it is.

use std::sync::atomic::{AtomicU64, Ordering};

use super::map::Table;
use super::simd::{Any, Block, prefetch, prefetch_to_write};
use super::word::ShortKey;

/// The most tokens of a word that a slot keeps: as many as fit into its sixteen bytes.
pub(super) const WIDE: usize = 4;
/// The same, where all ids of the vocabulary are below [`NARROW_IDS`].
pub(super) const NARROW: usize = 8;
pub(super) const NARROW_IDS: usize = 1 << 16;
const COUNT_SHIFT: u32 = 60;
const KEY_BITS: u64 = u64::MAX >> (64 - COUNT_SHIFT);

/// The high halves of slots without a word. No key has them, nor has [`ShortKey::NONE`].
const EMPTY: u64 = 1;
/// It is being written.
const TAKEN: u64 = 2;

/// A word's tokens, of which there may be up to `N`, and how many of these there are.
pub(super) type Inline<const N: usize> = ([u32; N], usize);

/// The tokens of a word as a slot keeps them.
#[derive(Clone, Copy)]
pub(super) struct Packed {
    ids: [u64; 2],
    count: u64,
}

impl Packed {
    /// `None` if a slot does not keep so many tokens. `is_narrow`: whether all ids are below [`NARROW_IDS`].
    pub(super) fn new(tokens: &[u32], is_narrow: bool) -> Option<Self> {
        if tokens.len() > if is_narrow { NARROW } else { WIDE } {
            return None;
        }
        let bits = if is_narrow { 16 } else { 32 };
        let both = tokens.iter().rev().fold(0_u128, |both, &id| both << bits | u128::from(id));
        let ids = [both as u64, (both >> 64) as u64];
        Some(Self { ids, count: tokens.len() as u64 })
    }

    /// Appends them to `out`. `is_narrow`: as when they were packed.
    pub(super) fn append_to(self, out: &mut Vec<u32>, is_narrow: bool) {
        if is_narrow {
            let (ids, count) = self.tokens::<NARROW, Any>();
            out.extend_from_slice(&ids[..count]);
        } else {
            let (ids, count) = self.tokens::<WIDE, Any>();
            out.extend_from_slice(&ids[..count]);
        }
    }

    #[inline(always)]
    fn tokens<const N: usize, B: Block>(self) -> Inline<N> {
        let Self { ids, count } = self;
        let wide = |at: usize| (ids[at / 2] >> (32 * (at % 2))) as u32;
        let tokens = if N == NARROW {
            let tokens = B::widen(ids);
            std::array::from_fn(|at| tokens[at])
        } else {
            std::array::from_fn(wide)
        };
        (tokens, count as usize)
    }
}

/// A word and its tokens, 32 bytes in all.
#[repr(C, align(32))]
struct Slot {
    low: AtomicU64,
    /// The key's high half, and above it the number of tokens. It is written last: what else a slot holds is there once this is.
    high: AtomicU64,
    ids: [AtomicU64; 2],
}

impl Slot {
    const fn empty() -> Self {
        Self { low: AtomicU64::new(0), high: AtomicU64::new(EMPTY), ids: [AtomicU64::new(0), AtomicU64::new(0)] }
    }

    #[inline(always)]
    fn holds(&self, key: ShortKey) -> bool {
        let high = self.high.load(Ordering::Acquire);
        (high & KEY_BITS ^ key.high) | (self.low.load(Ordering::Relaxed) ^ key.low) == 0
    }

    /// What a slot that holds a word keeps.
    #[inline(always)]
    fn packed(&self) -> Packed {
        let [first, second] = &self.ids;
        Packed {
            ids: [first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)],
            count: self.high.load(Ordering::Relaxed) >> COUNT_SHIFT,
        }
    }

    /// Writes the word, unless the slot has one or another thread is writing to it.
    fn take(&self, key: ShortKey, packed: Packed) -> bool {
        let high = &self.high;
        // To look first costs less where there is a word.
        if high.load(Ordering::Relaxed) != EMPTY
            || high.compare_exchange(EMPTY, TAKEN, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return false;
        }
        self.low.store(key.low, Ordering::Relaxed);
        for (place, ids) in self.ids.iter().zip(packed.ids) {
            place.store(ids, Ordering::Relaxed);
        }
        high.store(key.high | packed.count << COUNT_SHIFT, Ordering::Release);
        true
    }
}

/// Two slots that the same keys may stand in, one cache line.
#[repr(C, align(64))]
struct Pair([Slot; 2]);

impl Pair {
    const fn empty() -> Self {
        Self([const { Slot::empty() }; 2])
    }

    #[inline(always)]
    fn get<const N: usize, B: Block>(&self, key: ShortKey) -> Option<Inline<N>> {
        let Self(slots) = self;
        // Which of the two it is cannot be foretold, only that it is one: so no branch but the last.
        let slot = &slots[usize::from(!slots[0].holds(key))];
        slot.holds(key).then(|| slot.packed().tokens::<N, B>())
    }
}

/// What has become of a word that was to be put into the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Inserted {
    New,
    /// It was there.
    Known,
    /// The places where it may stand have other words.
    NoRoom,
}

/// Words of up to 15 bytes and four tokens, or eight where ids are small. A word may stand in two neighbouring pairs, so that few find no room
/// before most slots are taken; neighbours, since the second is then mostly near when the first did not have the word.
pub(super) struct ShortTable {
    /// A power of two of them.
    pairs: Table<Pair>,
    shift: u32,
}

/// What look-ups read of a table, to be kept at hand.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pairs: &'a [Pair],
    /// How far a hash is shifted to be a place among them.
    shift: u32,
}

impl ShortTable {
    /// One of so many pairs, a power of two above one.
    pub(super) fn new(pairs: usize) -> Self {
        Self { pairs: Table::from_fn(pairs, Pair::empty), shift: u64::BITS - pairs.ilog2() }
    }

    pub(super) fn num_pairs(&self) -> usize {
        self.pairs.len()
    }

    #[inline(always)]
    pub(super) fn view(&self) -> View<'_> {
        View { pairs: &self.pairs, shift: self.shift }
    }

    /// Puts the word into its first pair, or if that is full, into its second.
    pub(super) fn insert(&self, key: ShortKey, hash: u64, packed: Packed) -> Inserted {
        let view = self.view();
        let first = view.place(hash);
        for slot in [first, first ^ 1].into_iter().flat_map(|at| &view.pairs[at].0) {
            if slot.take(key, packed) {
                return Inserted::New;
            }
            // Words never leave, so this one is not beyond a slot without one. Should another thread be writing this very word just now, it will
            // stand there twice.
            if slot.holds(key) {
                return Inserted::Known;
            }
        }
        Inserted::NoRoom
    }

    /// All words that are there whole.
    pub(super) fn words(&self) -> impl Iterator<Item = (ShortKey, Packed)> {
        self.pairs.iter().flat_map(|Pair(slots)| slots).filter_map(|slot| {
            let high = slot.high.load(Ordering::Acquire);
            let key = ShortKey { low: slot.low.load(Ordering::Relaxed), high: high & KEY_BITS };
            (high != EMPTY && high != TAKEN).then(|| (key, slot.packed()))
        })
    }

    /// The tokens of the word, wherever it stands.
    pub(super) fn find(&self, key: ShortKey, hash: u64) -> Option<Packed> {
        let first = self.view().place(hash);
        let mut slots = [first, first ^ 1].into_iter().flat_map(|at| &self.pairs[at].0);
        slots.find(|slot| slot.holds(key)).map(Slot::packed)
    }
}

impl View<'_> {
    /// The tokens of the word and their number, if it stands in its first pair.
    #[inline(always)]
    pub(super) fn get<const N: usize, B: Block>(self, key: ShortKey, hash: u64) -> Option<Inline<N>> {
        self.pairs[self.place(hash)].get::<N, B>(key)
    }

    /// The tokens of the word and their number, if it stands in its second pair.
    #[inline]
    pub(super) fn get_second<const N: usize>(self, key: ShortKey, hash: u64) -> Option<Inline<N>> {
        self.pairs[self.place(hash) ^ 1].get::<N, Any>(key)
    }

    /// Begins to bring the pair near that [`Self::get`] reads.
    #[inline(always)]
    pub(super) fn touch(self, hash: u64) {
        prefetch(self.pairs, self.place(hash));
    }

    /// Begins to bring what [`ShortTable::insert`] writes to into the core's own cache, away from those of others.
    #[inline(always)]
    pub(super) fn touch_to_write(self, hash: u64) {
        prefetch_to_write(self.pairs, self.place(hash));
    }

    #[inline(always)]
    fn place(self, hash: u64) -> usize {
        (hash >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::hash::HashKey;
    use super::super::word::MAX_SHORT;
    use super::*;

    const PAIRS: usize = 1 << 12;

    fn key(number: u32) -> ShortKey {
        ShortKey::new(format!("{:08x}", number.wrapping_mul(0x9e37_79b1)).as_bytes(), 0, 8)
    }

    fn hash(hashes: HashKey, key: ShortKey) -> u64 {
        hashes.pair(key.low, key.high)
    }

    fn tokens(table: &ShortTable, key: ShortKey, hash: u64) -> Option<Vec<u32>> {
        let found = table.view().get::<WIDE, Any>(key, hash).or_else(|| table.view().get_second(key, hash));
        let found = found.map(|(ids, count)| ids[..count].to_vec());
        let packed = table.find(key, hash).map(|packed| {
            let mut ids = Vec::new();
            packed.append_to(&mut ids, false);
            ids
        });
        assert_eq!(found, packed);
        found
    }

    #[test]
    fn a_word_gives_its_own_tokens_or_none() {
        let (table, hashes) = (ShortTable::new(PAIRS), HashKey::random());
        let own = |number: u32| vec![number; 1 + number as usize % WIDE];
        let mut new = 0;
        for number in 0..3 * PAIRS as u32 {
            let packed = Packed::new(&own(number), false).unwrap();
            let inserted = table.insert(key(number), hash(hashes, key(number)), packed);
            new += usize::from(inserted == Inserted::New);
            for asked in [number, number / 2, number + 1] {
                let found = tokens(&table, key(asked), hash(hashes, key(asked)));
                assert!(found.is_none_or(|found| asked <= number && found == own(asked)));
            }
            let again = table.insert(key(number), hash(hashes, key(number)), packed);
            assert_eq!(again, if inserted == Inserted::New { Inserted::Known } else { Inserted::NoRoom });
        }
        assert!((PAIRS * 3 / 2..=2 * PAIRS).contains(&new), "{new}");
        let mut words: Vec<_> = table.words().map(|(key, _)| (key.low, key.high)).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), new);
        assert!(tokens(&table, ShortKey::NONE, 7).is_none());
    }

    #[test]
    fn few_words_find_no_room_before_most_slots_are_taken() {
        let (table, hashes) = (ShortTable::new(PAIRS), HashKey::random());
        let words = PAIRS * 2 * 6 / 10;
        let packed = Packed::new(&[7], false).unwrap();
        let insert = |number: &u32| table.insert(key(*number), hash(hashes, key(*number)), packed) == Inserted::NoRoom;
        // With one pair for each word it would be 14 in 100, with two it is 7, and here less, as only the last ones find the table so full.
        let lost = (0..words as u32).filter(insert).count();
        assert!(lost * 10 < words, "{lost} of {words}");
    }

    #[test]
    fn a_slot_keeps_eight_small_ids_or_four_of_any_size() {
        fn check<const N: usize>(is_narrow: bool, first: u32) {
            for count in 0..=MAX_SHORT as u32 {
                let tokens: Vec<u32> = (0..count).map(|at| first - at).collect();
                let packed = Packed::new(&tokens, is_narrow);
                assert_eq!(packed.is_some(), tokens.len() <= N, "{count}");
                let Some(packed) = packed else { continue };
                let (ids, len) = packed.tokens::<N, Any>();
                assert_eq!(ids[..len], tokens);
                let mut all = vec![1];
                packed.append_to(&mut all, is_narrow);
                assert_eq!(all[1..], tokens);
            }
        }
        check::<NARROW>(true, NARROW_IDS as u32 - 1);
        check::<WIDE>(false, u32::MAX);
    }

    #[test]
    fn equal_hashes_do_not_confuse_words() {
        let table = ShortTable::new(2);
        let insert = |number: u32| table.insert(key(number), 5, Packed::new(&[number], false).unwrap());
        assert_eq!([0, 1, 2, 3, 4, 3].map(insert), {
            use Inserted::{Known, New, NoRoom};
            [New, New, New, New, NoRoom, Known]
        });
        let first = [0, 1, 2, 3, 4].map(|number| table.view().get::<WIDE, Any>(key(number), 5).map(|(ids, _)| ids[0]));
        assert_eq!(first, [Some(0), Some(1), None, None, None]);
        let second =
            [0, 1, 2, 3, 4].map(|number| table.view().get_second::<WIDE>(key(number), 5).map(|(ids, _)| ids[0]));
        assert_eq!(second, [None, None, Some(2), Some(3), None]);
    }

    #[test]
    fn who_reads_while_others_write_finds_whole_words() {
        const THREADS: u32 = 4;
        let hashes = HashKey::random();
        for _ in 0..20 {
            let (table, is_done) = (ShortTable::new(1 << 8), AtomicBool::new(false));
            let own = |number: u32| [number, !number, number ^ 0x5555, number << 3];
            let check = || {
                for number in 0..1 << 9 {
                    let found = table.view().get::<WIDE, Any>(key(number), hash(hashes, key(number)));
                    assert!(found.is_none_or(|found| found == (own(number), WIDE)));
                }
            };
            std::thread::scope(|scope| {
                let writers: Vec<_> = (0..THREADS)
                    .map(|thread| {
                        let (table, is_narrow) = (&table, false);
                        scope.spawn(move || {
                            // Each begins elsewhere, and all write all.
                            for at in 0..1 << 9 {
                                let number = (at + thread * 100) % (1 << 9);
                                let packed = Packed::new(&own(number), is_narrow).unwrap();
                                table.insert(key(number), hash(hashes, key(number)), packed);
                            }
                        })
                    })
                    .collect();
                scope.spawn(|| {
                    while !is_done.load(Ordering::Relaxed) {
                        check();
                    }
                });
                for writer in writers {
                    writer.join().unwrap();
                }
                is_done.store(true, Ordering::Relaxed);
            });
            check();
            assert!(table.words().count() > 1 << 8);
        }
    }
}
