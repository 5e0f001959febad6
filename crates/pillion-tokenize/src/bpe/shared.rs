//! The short words that all threads have met with a tokenizer: what is new to one is mostly new to all, and merging a word costs ten times
//! what it costs to find it.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::short_table::{Inserted, Packed, ShortTable};
use super::vocab::Vocab;
use super::word::ShortKey;

/// Ids below this are of tokens that come often: vocabularies are trained from the most common down.
const COMMON: u32 = 1 << 14;
const FIRST_PAIRS: usize = 1 << 9;
/// When these are half full, much more text is likely to come.
const SOME_PAIRS: usize = 1 << 12;
const MAX_PAIRS: usize = 1 << 17;

/// The words of a tokenizer. They are in a table that grows with use up to 8 MiB: the words of a language mostly fit in, and to look one up
/// that has left the core's own cache is still far cheaper than to merge it again. When it has enough of them, an empty one takes its place, to
/// which words are taken over as they come again.
pub(super) struct SharedCache {
    is_narrow: bool,
    newest: Mutex<Newest>,
    /// The newest generation's.
    number: AtomicU64,
    growing: Mutex<()>,
}

struct Newest {
    current: Arc<Generation>,
    previous: Option<Arc<Generation>>,
}

/// A table, and how full it is.
pub(super) struct Generation {
    number: u64,
    pub(super) table: ShortTable,
    offered: AtomicUsize,
}

impl Generation {
    pub(super) fn new(number: u64, pairs: usize) -> Self {
        Self { number, table: ShortTable::new(pairs), offered: AtomicUsize::new(0) }
    }

    fn is_last_size(&self) -> bool {
        self.table.num_pairs() >= MAX_PAIRS
    }

    /// Puts a word into a table that no other thread has yet.
    fn insert(&self, key: ShortKey, hash: u64, packed: Packed) {
        if self.table.insert(key, hash, packed) == Inserted::New {
            self.count(1);
        }
    }

    /// Counts words that were offered to the table, and tells whether that is enough for it.
    fn count(&self, offered: usize) -> bool {
        let pairs = self.table.num_pairs();
        // Of two slots a pair, half are taken; in a table that will not grow, three of four.
        let enough = if self.is_last_size() { pairs + pairs / 2 } else { pairs };
        self.offered.fetch_add(offered, Ordering::Relaxed) + offered > enough
    }
}

impl SharedCache {
    /// `is_narrow`: whether all ids are so small that a slot keeps eight.
    pub(super) fn new(is_narrow: bool) -> Self {
        let current = Arc::new(Generation::new(1, FIRST_PAIRS));
        let newest = Mutex::new(Newest { current, previous: None });
        Self { is_narrow, newest, number: AtomicU64::new(1), growing: Mutex::new(()) }
    }

    pub(super) fn is_narrow(&self) -> bool {
        self.is_narrow
    }

    /// Whether this is the newest generation.
    #[inline(always)]
    pub(super) fn is_newest(&self, generation: &Generation) -> bool {
        self.number.load(Ordering::Relaxed) == generation.number
    }

    /// The newest generation, and the full one before, if there is one, which may end at any time.
    pub(super) fn newest(&self) -> (Arc<Generation>, Weak<Generation>) {
        let newest = self.lock();
        (Arc::clone(&newest.current), newest.previous.as_ref().map(Arc::downgrade).unwrap_or_default())
    }

    /// Tells of new words that a thread has offered to a table.
    pub(super) fn count(&self, offered: usize, generation: &Generation, vocab: &Vocab) {
        if generation.count(offered) && self.is_newest(generation) {
            self.grow(generation, vocab);
        }
    }

    /// Puts another table in place of one that has enough words. Does nothing while another thread does so.
    #[cold]
    fn grow(&self, full: &Generation, vocab: &Vocab) {
        let _growing = match self.growing.try_lock() {
            Ok(growing) => growing,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => return,
        };
        if !self.is_newest(full) {
            return;
        }
        let more = if full.table.num_pairs() < SOME_PAIRS { SOME_PAIRS } else { MAX_PAIRS };
        let next = Generation::new(full.number + 1, more);
        if !full.is_last_size() {
            for (key, packed) in full.table.words() {
                next.insert(key, vocab.hash(key), packed);
            }
        }
        if next.is_last_size() {
            // It takes less time to put all of them there than to look for each where it first comes.
            for (key, id) in vocab.short_words().filter(|&(_, id)| id < COMMON) {
                if let Some(packed) = Packed::new(&[id], self.is_narrow) {
                    next.insert(key, vocab.hash(key), packed);
                }
            }
        }
        let mut newest = self.lock();
        let full = std::mem::replace(&mut newest.current, Arc::new(next));
        newest.previous = full.is_last_size().then_some(full);
        self.number.store(newest.current.number, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::HashKey;
    use super::super::short_table::WIDE;
    use super::super::simd::Any;
    use super::*;

    fn key(number: u32) -> ShortKey {
        ShortKey::new(format!("{:08x}", number.wrapping_mul(0x9e37_79b1)).as_bytes(), 0, 8)
    }

    /// Puts words into the newest tables, as a thread does.
    fn learn(shared: &SharedCache, vocab: &Vocab, words: std::ops::Range<u32>) {
        for number in words {
            let (generation, _) = shared.newest();
            let packed = Packed::new(&[number], false).unwrap();
            let inserted = generation.table.insert(key(number), vocab.hash(key(number)), packed);
            shared.count(usize::from(inserted != Inserted::Known), &generation, vocab);
        }
    }

    fn knows(table: &ShortTable, vocab: &Vocab, number: u32) -> bool {
        table.find(key(number), vocab.hash(key(number))).is_some()
    }

    #[test]
    fn a_table_that_grows_keeps_its_words() {
        let (vocab, shared) = (Vocab::new(&[], HashKey::random()).unwrap(), SharedCache::new(false));
        let words = 2 * SOME_PAIRS as u32;
        let mut sizes = Vec::new();
        for first in (0..words).step_by(256) {
            learn(&shared, &vocab, first..first + 256);
            sizes.push(shared.newest().0.table.num_pairs());
        }
        sizes.dedup();
        assert_eq!(sizes, [FIRST_PAIRS, SOME_PAIRS, MAX_PAIRS]);
        let (generation, previous) = shared.newest();
        let kept = (0..words).filter(|&number| knows(&generation.table, &vocab, number)).count();
        assert!(kept * 10 > words as usize * 9, "{kept}");
        assert!(previous.upgrade().is_none(), "all that it had is in the next one");
    }

    #[test]
    fn a_table_of_the_last_size_begins_with_common_tokens() {
        let mut vocab = Vocab::new(&[("ab", 7), ("abc", 8), ("abcdefghijklmnopqrst", 9)], HashKey::random()).unwrap();
        vocab.set_whole(7);
        let shared = SharedCache::new(false);
        let tokens = |word: &[u8]| {
            let key = ShortKey::new(word, 0, word.len());
            let (generation, _) = shared.newest();
            generation.table.view().get::<WIDE, Any>(key, vocab.hash(key)).map(|(ids, count)| ids[..count].to_vec())
        };
        assert_eq!(tokens(b"ab"), None);
        learn(&shared, &vocab, 0..2 * SOME_PAIRS as u32);
        assert_eq!((tokens(b"ab"), tokens(b"abc")), (Some(vec![7]), None));
    }

    #[test]
    fn a_full_table_is_at_hand_until_the_next_one_is_full() {
        let (vocab, shared) = (Vocab::new(&[], HashKey::random()).unwrap(), SharedCache::new(false));
        let enough = (MAX_PAIRS + MAX_PAIRS / 2) as u32;
        let words = enough + enough / 8;
        learn(&shared, &vocab, 0..words);
        let (second, first) = shared.newest();
        let first = first.upgrade().unwrap();
        assert_eq!((first.table.num_pairs(), second.table.num_pairs()), (MAX_PAIRS, MAX_PAIRS));
        let known = (0..enough).filter(|&number| knows(&first.table, &vocab, number)).count();
        assert!(known > enough as usize * 8 / 10, "{known}");
        assert!((0..enough / 2).all(|number| !knows(&second.table, &vocab, number)));
        learn(&shared, &vocab, words..2 * words);
        let (_, previous) = shared.newest();
        assert!(Arc::ptr_eq(&previous.upgrade().unwrap(), &second));
        assert_eq!(Arc::strong_count(&first), 1, "nobody else has it any more");
    }

    #[test]
    fn threads_that_fill_it_together_make_one_table_after_the_other() {
        let (vocab, shared) = (Vocab::new(&[], HashKey::random()).unwrap(), SharedCache::new(false));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (shared, vocab) = (&shared, &vocab);
                scope.spawn(move || learn(shared, vocab, thread * 4_000..(thread + 1) * 4_000));
            }
        });
        let (generation, _) = shared.newest();
        assert_eq!((generation.number, generation.table.num_pairs()), (3, MAX_PAIRS));
    }
}
