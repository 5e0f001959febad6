//! The bounded caches of words and their tokens. They hold full bytes: what they hold changes no result.

use super::hash::slot_of;
use super::map::Table;
use super::simd::prefetch;
use super::vocab::Vocab;
use super::word::{MAX_SHORT, ShortKey};

/// The most tokens of a word that a slot of [`ShortCache`] keeps: as many as fit into its sixteen bytes.
pub(super) const WIDE: usize = 4;
/// The same, where all ids of the vocabulary are below [`NARROW_IDS`].
pub(super) const NARROW: usize = 8;
pub(super) const NARROW_IDS: usize = 1 << 16;
const LENGTH_BITS: u64 = 0x0f << 56;
const COUNT_SHIFT: u32 = 60;

/// A short word and its tokens, 32 bytes in all. The number of tokens is in the high bits of the key.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Slot {
    low: u64,
    high: u64,
    /// [`WIDE`] or [`NARROW`] of them, little-endian.
    ids: [u8; 16],
}

/// It has the key of no word, nor [`ShortKey::NONE`].
const EMPTY: Slot = Slot { low: 0, high: 1, ids: [0; 16] };
const SHORT_BITS: u64 = u64::MAX >> (64 - COUNT_SHIFT);

/// Two slots that the same keys may stand in, one cache line. The newer is the first.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Pair([Slot; 2]);

/// Words of up to 15 bytes and four tokens, or eight where ids are small. It grows with use up to 8 MiB: the words of a language mostly fit in, and to look one up that
/// has left the core's own cache is still far cheaper than to merge it again. A word may stand in two neighbouring pairs, so that few are
/// lost before most slots are taken. Neighbours, since the second is then mostly near when the first did not have the word.
pub(super) struct ShortCache {
    is_narrow: bool,
    /// A power of two of them.
    pairs: Table<Pair>,
    /// How far a hash is shifted to be a place among them.
    shift: u32,
    inserted: usize,
    /// The words of more tokens that came last. Few, and the first to go: of most such words there will never be another, but some, such
    /// as runs of spaces in the code of a vocabulary without tokens for these, come again and again.
    many: Table<Many>,
}

/// A word of more tokens than a slot keeps; one of none stands for no word.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct Many {
    key: ShortKey,
    ids: [u32; MAX_SHORT],
    count: u32,
}

const FEW: usize = 1 << 8;

/// Ids below this are of tokens that come often: vocabularies are trained from the most common down.
const COMMON: u32 = 1 << 16;
const FIRST_PAIRS: usize = 1 << 9;
/// When these are half full, much more text is likely to come.
const SOME_PAIRS: usize = 1 << 12;
const MAX_PAIRS: usize = 1 << 17;

/// A word's tokens, of which there may be up to `N`, and how many of these there are.
pub(super) type Inline<const N: usize> = ([u32; N], usize);

impl Slot {
    /// `None` if a slot does not keep so many tokens.
    fn new(key: ShortKey, tokens: &[u32], is_narrow: bool) -> Option<Self> {
        let mut ids = [0; 16];
        if is_narrow {
            for (place, id) in ids.as_chunks_mut().0.get_mut(..tokens.len())?.iter_mut().zip(tokens) {
                *place = (*id as u16).to_le_bytes();
            }
        } else {
            for (place, id) in ids.as_chunks_mut().0.get_mut(..tokens.len())?.iter_mut().zip(tokens) {
                *place = id.to_le_bytes();
            }
        }
        Some(Self { low: key.low, high: key.high | (tokens.len() as u64) << COUNT_SHIFT, ids })
    }

    #[inline(always)]
    fn tokens<const N: usize>(&self) -> Inline<N> {
        let (narrow, wide) = (self.ids.as_chunks().0, self.ids.as_chunks().0);
        let id = |at: usize| {
            if N == NARROW { u32::from(u16::from_le_bytes(narrow[at])) } else { u32::from_le_bytes(wide[at]) }
        };
        (std::array::from_fn(id), (self.high >> COUNT_SHIFT) as usize)
    }

    fn is_empty(&self) -> bool {
        self.high & LENGTH_BITS == 0
    }

    fn key(&self) -> ShortKey {
        ShortKey { low: self.low, high: self.high & SHORT_BITS }
    }
}

impl Pair {
    #[inline(always)]
    fn get<const N: usize>(&self, key: ShortKey) -> Option<Inline<N>> {
        let Self(slots) = self;
        let holds = |slot: &Slot| (slot.low ^ key.low) | (slot.high & SHORT_BITS ^ key.high) == 0;
        // Which of the two it is cannot be foretold, only that it is one: so no branch but the last.
        let slot = &slots[usize::from(!holds(&slots[0]))];
        holds(slot).then(|| slot.tokens())
    }

    fn has_room(&self) -> bool {
        self.0[1].is_empty()
    }

    /// Puts a slot in place of the older.
    fn put(&mut self, slot: Slot) {
        let Self([first, second]) = self;
        *second = std::mem::replace(first, slot);
    }
}

impl ShortCache {
    /// `is_narrow`: whether all ids are below [`NARROW_IDS`].
    pub(super) fn new(is_narrow: bool) -> Self {
        let nothing = Many { key: ShortKey::NONE, ids: [0; MAX_SHORT], count: 0 };
        let many = Table::new(nothing, FEW);
        let pairs = Table::new(Pair([EMPTY; 2]), FIRST_PAIRS);
        Self { is_narrow, pairs, shift: shift_for(FIRST_PAIRS), inserted: 0, many }
    }

    /// Whether the words have up to [`NARROW`] tokens, in place of [`WIDE`].
    #[inline(always)]
    pub(super) fn is_narrow(&self) -> bool {
        self.is_narrow
    }

    /// The tokens of the word and their number, if it stands in its first pair.
    #[inline(always)]
    pub(super) fn get<const N: usize>(&self, key: ShortKey, hash: u64) -> Option<Inline<N>> {
        self.pairs[self.place(hash)].get(key)
    }

    /// The tokens of the word and their number, if it stands in its second pair.
    #[inline]
    pub(super) fn get_second<const N: usize>(&self, key: ShortKey, hash: u64) -> Option<Inline<N>> {
        self.pairs[self.place(hash) ^ 1].get(key)
    }

    /// The tokens of a word of more than a slot keeps, if it came lately.
    #[inline]
    pub(super) fn get_many(&self, key: ShortKey, hash: u64) -> Option<Inline<MAX_SHORT>> {
        let word = &self.many[slot_of(hash, FEW)];
        (word.key == key).then_some((word.ids, word.count as usize))
    }

    /// Begins to bring the pair near that [`Self::get`] reads.
    #[inline(always)]
    pub(super) fn touch(&self, hash: u64) {
        prefetch(&self.pairs, self.place(hash));
    }

    /// Keeps the word. If a slot keeps so many tokens: in its first pair, or in its second one if that has room and the first has
    /// none, or else in place of the older in the first. Gives the slot if it is a new one.
    pub(super) fn insert(&mut self, key: ShortKey, hash: u64, tokens: &[u32], vocab: &Vocab) -> Option<Slot> {
        if tokens.is_empty() {
            return None;
        }
        let Some(slot) = Slot::new(key, tokens, self.is_narrow) else {
            self.insert_many(key, hash, tokens);
            return None;
        };
        self.insert_slot(slot, key, hash, vocab).then_some(slot)
    }

    /// Keeps words that another cache for the same vocabulary has made slots of.
    pub(super) fn take_over(&mut self, slots: &[Slot], vocab: &Vocab) {
        const TOGETHER: usize = 16;
        for slots in slots.chunks(TOGETHER) {
            let mut hashes = [0; TOGETHER];
            for (hash, slot) in hashes.iter_mut().zip(slots) {
                *hash = vocab.hash(slot.key());
                self.touch(*hash);
            }
            for (&slot, hash) in slots.iter().zip(hashes) {
                self.insert_slot(slot, slot.key(), hash, vocab);
            }
        }
    }

    /// Whether it was not there before.
    fn insert_slot(&mut self, slot: Slot, key: ShortKey, hash: u64, vocab: &Vocab) -> bool {
        if self.inserted > self.pairs.len() && self.pairs.len() < MAX_PAIRS {
            self.grow(vocab);
        }
        // It may be one of those that the cache has just begun with, or of another thread.
        if self.has(key, hash) {
            return false;
        }
        self.inserted += 1;
        self.put(slot, hash);
        true
    }

    fn insert_many(&mut self, key: ShortKey, hash: u64, tokens: &[u32]) {
        let word = &mut self.many[slot_of(hash, FEW)];
        if let Some(ids) = word.ids.get_mut(..tokens.len()) {
            ids.copy_from_slice(tokens);
            (word.key, word.count) = (key, tokens.len() as u32);
        }
    }

    fn put(&mut self, slot: Slot, hash: u64) {
        let [first, second] = self.places(hash);
        let at = if self.pairs[first].has_room() || !self.pairs[second].has_room() { first } else { second };
        self.pairs[at].put(slot);
    }

    /// Whether the word stands anywhere.
    fn has(&self, key: ShortKey, hash: u64) -> bool {
        self.get::<WIDE>(key, hash).is_some() || self.get_second::<WIDE>(key, hash).is_some()
    }

    fn places(&self, hash: u64) -> [usize; 2] {
        let pair = self.place(hash);
        [pair, pair ^ 1]
    }

    /// As [`slot_of`], in one instruction.
    #[inline(always)]
    fn place(&self, hash: u64) -> usize {
        (hash >> self.shift) as usize
    }

    /// Makes room; when it is the last time, then with the common words that are tokens: it takes less time to put them all there than to
    /// look for each where it first comes.
    #[cold]
    fn grow(&mut self, vocab: &Vocab) {
        let more = if self.pairs.len() < SOME_PAIRS { SOME_PAIRS } else { MAX_PAIRS };
        self.shift = shift_for(more);
        for &Pair([first, second]) in &*std::mem::replace(&mut self.pairs, Table::new(Pair([EMPTY; 2]), more)) {
            for slot in [second, first].into_iter().filter(|slot| !slot.is_empty()) {
                self.put(slot, vocab.hash(slot.key()));
            }
        }
        if more < MAX_PAIRS {
            return;
        }
        for (key, id) in vocab.short_words().filter(|&(_, id)| id < COMMON) {
            let hash = vocab.hash(key);
            let is_new = !self.has(key, hash);
            if is_new
                && self.places(hash).into_iter().any(|at| self.pairs[at].has_room())
                && let Some(slot) = Slot::new(key, &[id], self.is_narrow)
            {
                self.put(slot, hash);
            }
        }
    }
}

const fn shift_for(pairs: usize) -> u32 {
    u64::BITS - pairs.ilog2()
}

/// Where a long word stands in the ring, counted from the first byte ever written.
#[derive(Clone, Copy)]
struct Place {
    start: u64,
    tag: u32,
    len: u16,
    tokens: u16,
}

const NOWHERE: Place = Place { start: 0, tag: 0, len: 0, tokens: 0 };

/// Places that the same hashes may stand in, one cache line, the newest first.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Places([Place; 4]);

/// Longer words, in a ring of bytes: each word, then its tokens. New ones overwrite the oldest. The first are forgotten when there is much
/// text, so that a little needs little memory.
pub(super) struct LongCache {
    places: Table<Places>,
    ring: Vec<u8>,
    written: u64,
}

/// The longest word that [`LongCache`] keeps.
pub(super) const MAX_LONG: usize = 128;
const PLACES: usize = 1 << 15;
const FIRST_PLACES: usize = 1 << 9;
/// When so much is written to the ring, there are all places.
const MUCH: u64 = 1 << 16;
const RING: usize = 1 << 22;
const ID_BYTES: usize = 4;

impl LongCache {
    pub(super) fn new() -> Self {
        Self { places: Table::new(Places([NOWHERE; 4]), 0), ring: Vec::new(), written: 0 }
    }

    /// Begins to bring near what [`Self::get`] reads first.
    #[inline(always)]
    pub(super) fn touch(&self, hash: u64) {
        prefetch(&self.places, slot_of(hash, self.places.len()));
    }

    /// The tokens of the word, each of four bytes.
    #[inline]
    pub(super) fn get(&self, word: &[u8], hash: u64) -> Option<&[[u8; ID_BYTES]]> {
        if self.places.is_empty() {
            return None;
        }
        let Places(places) = &self.places[slot_of(hash, self.places.len())];
        places.iter().filter(|place| place.tag == hash as u32).find_map(|place| self.tokens_at(place, word))
    }

    /// The tokens of the word, if it stands there.
    #[inline]
    fn tokens_at(&self, place: &Place, word: &[u8]) -> Option<&[[u8; ID_BYTES]]> {
        if usize::from(place.len) != word.len() || self.written - place.start > RING as u64 {
            return None;
        }
        let start = (place.start % RING as u64) as usize;
        let (bytes, rest) = self.ring.get(start..)?.split_at_checked(word.len())?;
        (bytes == word).then(|| rest.as_chunks().0.get(..usize::from(place.tokens)))?
    }

    /// Keeps the word, which is of 1 to [`MAX_LONG`] bytes.
    pub(super) fn insert(&mut self, word: &[u8], hash: u64, tokens: &[u32]) {
        let num_places = if self.written < MUCH { FIRST_PLACES } else { PLACES };
        if self.places.len() < num_places {
            self.places = Table::new(Places([NOWHERE; 4]), num_places);
        }
        let size = word.len() + ID_BYTES * tokens.len();
        let mut start = (self.written % RING as u64) as usize;
        if start + size > RING {
            self.written += (RING - start) as u64;
            start = 0;
        }
        if self.ring.len() < start + size {
            self.ring.resize(start + size, 0);
        }
        let (bytes, ids) = self.ring[start..start + size].split_at_mut(word.len());
        bytes.copy_from_slice(word);
        for (chunk, id) in ids.as_chunks_mut::<ID_BYTES>().0.iter_mut().zip(tokens) {
            *chunk = id.to_le_bytes();
        }
        let place =
            Place { start: self.written, tag: hash as u32, len: word.len() as u16, tokens: tokens.len() as u16 };
        self.written += size as u64;
        let at = slot_of(hash, self.places.len());
        let Places(places) = &mut self.places[at];
        places.rotate_right(1);
        places[0] = place;
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::HashKey;
    use super::*;

    fn vocab(tokens: &[(&str, u32)]) -> Vocab {
        Vocab::new(tokens, HashKey::random()).unwrap()
    }

    fn key(number: u32) -> ShortKey {
        let bytes = number.to_le_bytes();
        ShortKey::new(&bytes, 0, 4)
    }

    #[test]
    fn a_short_word_gives_its_own_tokens_or_none() {
        let vocab = vocab(&[]);
        let hash = |key: ShortKey| vocab.hash(key);
        let mut cache = ShortCache::new(false);
        let mut found = 0;
        for number in 0..200_000_u32 {
            let tokens = vec![number; 1 + number as usize % 5];
            cache.insert(key(number), hash(key(number)), &tokens, &vocab);
            for asked in [number, number / 2, number + 1, number.saturating_sub(1000)] {
                let (key, hash) = (key(asked), hash(key(asked)));
                let Some((ids, count)) = cache.get::<WIDE>(key, hash).or_else(|| cache.get_second(key, hash)) else {
                    continue;
                };
                assert!(asked <= number);
                assert_eq!(&ids[..count], vec![asked; 1 + asked as usize % 5]);
                found += 1;
            }
        }
        assert!(found > 200_000, "{found}");
        assert_eq!(cache.pairs.len(), MAX_PAIRS);
    }

    #[test]
    fn few_words_are_lost_before_most_slots_are_taken() {
        let vocab = vocab(&[]);
        let hash = |key: ShortKey| vocab.hash(key);
        let key = |number: u32| ShortKey::new(format!("{:08x}", number.wrapping_mul(0x9e37_79b1)).as_bytes(), 0, 8);
        let mut cache = ShortCache::new(false);
        let words = MAX_PAIRS as u32 * 2 * 6 / 10;
        for number in 0..words {
            cache.insert(key(number), hash(key(number)), &[number], &vocab);
        }
        let kept = |number: &u32| {
            let key = key(*number);
            cache.has(key, hash(key))
        };
        // With one pair for each word it would be 14 in 100, with two it is 7.
        let lost = words as usize - (0..words).filter(kept).count();
        assert!(lost * 10 < words as usize, "{lost} of {words}");
    }

    #[test]
    fn words_that_are_tokens_are_there_once_there_is_much_text() {
        let mut vocab = vocab(&[("ab", 7), ("abc", 8), ("abcdefghijklmnopqrst", 9)]);
        vocab.set_whole(7);
        let mut cache = ShortCache::new(false);
        let tokens = |cache: &ShortCache, word: &[u8]| {
            let key = ShortKey::new(word, 0, word.len());
            cache.get::<WIDE>(key, vocab.hash(key)).map(|(ids, count)| ids[..count].to_vec())
        };
        assert_eq!(tokens(&cache, b"ab"), None);
        for number in 0..2 * SOME_PAIRS as u32 {
            cache.insert(key(number), vocab.hash(key(number)), &[number], &vocab);
        }
        assert_eq!((tokens(&cache, b"ab"), tokens(&cache, b"abc")), (Some(vec![7]), None));
    }

    #[test]
    fn a_slot_keeps_eight_small_ids_or_four_of_any_size_and_words_of_more_are_kept_for_a_while() {
        fn check<const N: usize>(is_narrow: bool, first: u32) {
            let vocab = vocab(&[]);
            let mut cache = ShortCache::new(is_narrow);
            for count in 1..=MAX_SHORT as u32 {
                let (key, tokens) = (key(count), (0..count).map(|at| first - at).collect::<Vec<_>>());
                cache.insert(key, vocab.hash(key), &tokens, &vocab);
                let (inline, many) = (cache.get::<N>(key, vocab.hash(key)), cache.get_many(key, vocab.hash(key)));
                assert_eq!((inline.is_some(), many.is_some()), (tokens.len() <= N, tokens.len() > N), "{count}");
                let found = inline.map(|(ids, len)| ids[..len].to_vec());
                assert_eq!(found.or(many.map(|(ids, len)| ids[..len].to_vec())), Some(tokens), "{count}");
            }
        }
        check::<NARROW>(true, NARROW_IDS as u32 - 1);
        check::<WIDE>(false, u32::MAX);
        let mut cache = ShortCache::new(false);
        cache.insert(key(1), 5, &[1; 5], &vocab(&[]));
        cache.insert(key(2), 5, &[2; 6], &vocab(&[]));
        assert!(cache.get_many(key(1), 5).is_none(), "another has its place");
        assert!(cache.get_many(key(2), 5).is_some_and(|(ids, len)| ids[..len] == [2; 6]));
    }

    #[test]
    fn equal_hashes_do_not_confuse_words() {
        let vocab = vocab(&[]);
        let mut cache = ShortCache::new(false);
        for number in 0..5 {
            cache.insert(key(number), 5, &[number], &vocab);
        }
        let first = [0, 1, 2, 3, 4].map(|number| cache.get::<WIDE>(key(number), 5).map(|(ids, _)| ids[0]));
        assert_eq!(first, [None, Some(1), None, None, Some(4)], "the oldest went");
        let second = [0, 1, 2, 3, 4].map(|number| cache.get_second::<WIDE>(key(number), 5).map(|(ids, _)| ids[0]));
        assert_eq!(second, [None, None, Some(2), Some(3), None]);
        let mut cache = LongCache::new();
        cache.insert(&[1; 20], 5, &[1]);
        assert_eq!(cache.get(&[1; 20], 5), Some(&[[1, 0, 0, 0]][..]));
        assert_eq!(cache.get(&[2; 20], 5), None);
        for byte in 2..=5 {
            cache.insert(&[byte; 20], 5, &[u32::from(byte)]);
        }
        let tokens = |byte| cache.get(&[byte; 20], 5).map(|ids| ids[0][0]);
        assert_eq!([1, 2, 3, 4, 5].map(tokens), [None, Some(2), Some(3), Some(4), Some(5)]);
    }

    #[test]
    fn a_long_word_stays_until_the_ring_comes_round() {
        let hashes = HashKey::random();
        let mut cache = LongCache::new();
        let word = |number: u32| number.to_le_bytes().repeat(4 + number as usize % 20);
        for number in 0..200_000 {
            let word = word(number);
            cache.insert(&word, hashes.bytes(&word), &[number, number + 1]);
        }
        assert!(cache.ring.len() <= RING);
        let mut found = 0;
        for number in 0..240_000 {
            let word = word(number);
            if let Some(tokens) = cache.get(&word, hashes.bytes(&word)) {
                assert_eq!(tokens, [number.to_le_bytes(), (number + 1).to_le_bytes()]);
                found += 1;
            }
        }
        assert!((3_000..4 * PLACES).contains(&found), "{found}");
    }
}
