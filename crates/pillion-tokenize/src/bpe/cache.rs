//! A thread's way to the words that the tokenizer knows. What the caches hold is found by full bytes: it changes no result.

use std::sync::{Arc, Weak};

use super::hash::slot_of;
use super::map::Table;
use super::shared::{Generation, SharedCache};
use super::short_table::{Inline, Inserted, Packed, View};
use super::vocab::Vocab;
use super::word::{MAX_SHORT, ShortKey};

/// Words of up to 15 bytes: the table that all threads share, and what has no place there.
pub(super) struct ShortCache {
    is_narrow: bool,
    generation: Arc<Generation>,
    previous: Weak<Generation>,
    /// New words that it has offered to the table and not yet told of.
    offered: usize,
    /// The words without a place in the table that came last: those of more tokens than it keeps, and those that found no room. Few, and the
    /// first to go: of most such words there will never be another, but some, such as runs of spaces in the code of a vocabulary without
    /// tokens for these, come again and again.
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
/// So many new words are told of together.
const TOGETHER: usize = 64;

impl ShortCache {
    /// One that knows of no tokenizer.
    pub(super) fn new() -> Self {
        let nothing = Many { key: ShortKey::NONE, ids: [0; MAX_SHORT], count: 0 };
        Self {
            is_narrow: false,
            generation: Arc::new(Generation::new(0, 2)),
            previous: Weak::new(),
            offered: 0,
            many: Table::new(nothing, FEW),
        }
    }

    /// The cache of another tokenizer.
    pub(super) fn change_to(&mut self, shared: &SharedCache) {
        *self = Self { is_narrow: shared.is_narrow(), ..Self::new() };
        self.follow(shared);
    }

    /// Goes on to the newest table.
    #[inline(always)]
    pub(super) fn follow(&mut self, shared: &SharedCache) {
        if !shared.is_newest(&self.generation) {
            self.follow_to(shared);
        }
    }

    #[cold]
    fn follow_to(&mut self, shared: &SharedCache) {
        (self.generation, self.previous) = shared.newest();
        self.offered = 0;
    }

    /// Whether words of the table have up to [`NARROW`](super::short_table::NARROW) tokens, in place of [`WIDE`](super::short_table::WIDE).
    #[inline(always)]
    pub(super) fn is_narrow(&self) -> bool {
        self.is_narrow
    }

    /// The table that all threads share.
    #[inline(always)]
    pub(super) fn table(&self) -> View<'_> {
        self.generation.table.view()
    }

    /// The table before, as long as it is there.
    pub(super) fn previous(&self) -> Option<Arc<Generation>> {
        self.previous.upgrade()
    }

    /// The tokens of a word without a place in the table, if it came lately.
    #[inline]
    pub(super) fn get_many(&self, key: ShortKey, hash: u64) -> Option<Inline<MAX_SHORT>> {
        let word = &self.many[slot_of(hash, FEW)];
        (word.key == key).then_some((word.ids, word.count as usize))
    }

    /// Says which words are inserted soon, by their hashes, so that their places come from another thread's core all at once.
    pub(super) fn touch_to_write(&self, hashes: impl Iterator<Item = u64>) {
        hashes.for_each(|hash| self.table().touch_to_write(hash));
    }

    /// Keeps the word.
    pub(super) fn insert(&mut self, key: ShortKey, hash: u64, tokens: &[u32]) {
        if tokens.is_empty() {
            return;
        }
        let packed = Packed::new(tokens, self.is_narrow);
        match packed.map(|packed| self.generation.table.insert(key, hash, packed)) {
            Some(Inserted::Known) => {}
            Some(Inserted::New) => self.offered += 1,
            Some(Inserted::NoRoom) => {
                // It counts too: a table is full when it has no room for the words that come.
                self.offered += 1;
                self.insert_many(key, hash, tokens);
            }
            None => self.insert_many(key, hash, tokens),
        }
    }

    fn insert_many(&mut self, key: ShortKey, hash: u64, tokens: &[u32]) {
        let word = &mut self.many[slot_of(hash, FEW)];
        if let Some(ids) = word.ids.get_mut(..tokens.len()) {
            ids.copy_from_slice(tokens);
            (word.key, word.count) = (key, tokens.len() as u32);
        }
    }

    /// Tells of the words that were offered, if there are some, and goes on to the newest table.
    pub(super) fn tell(&mut self, shared: &SharedCache, vocab: &Vocab) {
        if self.offered >= TOGETHER {
            shared.count(std::mem::take(&mut self.offered), &self.generation, vocab);
        }
        self.follow(shared);
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::HashKey;
    use super::super::short_table::{NARROW, NARROW_IDS, WIDE};
    use super::super::simd::Any;
    use super::*;

    fn key(number: u32) -> ShortKey {
        ShortKey::new(&number.to_le_bytes(), 0, 4)
    }

    #[test]
    fn words_of_more_tokens_than_the_table_keeps_are_kept_for_a_while() {
        fn check<const N: usize>(is_narrow: bool, first: u32) {
            let mut cache = ShortCache::new();
            cache.change_to(&SharedCache::new(is_narrow));
            for count in 1..=MAX_SHORT as u32 {
                let (key, tokens, hash) =
                    (key(count), (0..count).map(|at| first - at).collect::<Vec<_>>(), u64::from(count) << 59);
                cache.insert(key, hash, &tokens);
                let (inline, many) = (cache.table().get::<N, Any>(key, hash), cache.get_many(key, hash));
                assert_eq!((inline.is_some(), many.is_some()), (tokens.len() <= N, tokens.len() > N), "{count}");
                let found = inline.map(|(ids, len)| ids[..len].to_vec());
                assert_eq!(found.or(many.map(|(ids, len)| ids[..len].to_vec())), Some(tokens), "{count}");
            }
        }
        check::<NARROW>(true, NARROW_IDS as u32 - 1);
        check::<WIDE>(false, u32::MAX);
        let mut cache = ShortCache::new();
        cache.insert(key(1), 5, &[1; 5]);
        cache.insert(key(2), 5, &[2; 6]);
        assert!(cache.get_many(key(1), 5).is_none(), "another has its place");
        assert!(cache.get_many(key(2), 5).is_some_and(|(ids, len)| ids[..len] == [2; 6]));
    }

    #[test]
    fn words_that_find_no_room_are_kept_for_a_while() {
        let mut cache = ShortCache::new();
        for number in 0..5 {
            cache.insert(key(number), 5, &[number]);
        }
        let found = [0, 1, 2, 3, 4].map(|number| cache.get_many(key(number), 5).map(|(ids, len)| ids[..len].to_vec()));
        assert_eq!(found, [None, None, None, None, Some(vec![4])]);
        cache.insert(key(9), 5, &[]);
        assert!(cache.get_many(key(9), 5).is_none(), "a word without tokens is not kept");
    }

    #[test]
    fn a_thread_follows_to_the_newest_table() {
        let key = |number: u32| ShortKey::new(format!("{:08x}", number.wrapping_mul(0x9e37_79b1)).as_bytes(), 0, 8);
        let vocab = Vocab::new(&[], HashKey::random()).unwrap();
        let shared = SharedCache::new(false);
        let [mut one, mut two] = [ShortCache::new(), ShortCache::new()];
        one.change_to(&shared);
        two.change_to(&shared);
        let hash = |number| vocab.hash(key(number));
        for number in 0..2_000 {
            one.insert(key(number), hash(number), &[number]);
            one.tell(&shared, &vocab);
        }
        let known = |cache: &ShortCache| {
            let find = |number: &u32| cache.table().get::<WIDE, Any>(key(*number), hash(*number)).is_some();
            (0..2_000).filter(find).count()
        };
        let before = known(&two);
        two.follow(&shared);
        assert!(before < 1_100 && known(&two) > 1_500, "{before}, {}", known(&two));
        assert_eq!(known(&one), known(&two));
    }
}
