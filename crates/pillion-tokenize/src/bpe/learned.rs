//! Words that one thread has merged, for the others that use the same tokenizer: what is new to one is mostly new to all, and merging a
//! word costs ten times what it costs to take it over.

use std::sync::{
    Mutex, PoisonError, TryLockError,
    atomic::{AtomicU64, Ordering},
};

use super::cache::{ShortCache, Slot};
use super::vocab::Vocab;

/// So many words are handed over together.
const BATCH: usize = 64;
/// Words that a thread keeps to hand over while others are at it; more are not handed over.
const MAX_NEWS: usize = 8 * BATCH;
/// Words that a thread takes over at a time, so that no call waits long.
const MAX_TAKEN: usize = 8 * BATCH;
/// Words that are kept for those who come later.
const KEPT: usize = 1 << 13;

/// The last words that threads have merged.
#[derive(Default)]
pub(super) struct Learned(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    /// [`KEPT`] of them, once there are so many.
    slots: Vec<Slot>,
    written: u64,
    /// Who came last.
    last: u64,
    /// Whether others came before: who is alone keeps its words for itself.
    is_shared: bool,
}

/// A thread's part: what it has to tell, and how much it was told.
pub(super) struct News {
    /// Its number; never 0.
    who: u64,
    own: Vec<Slot>,
    others: Vec<Slot>,
    /// Words of the ring that it has seen.
    read: u64,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl News {
    pub(super) fn new() -> Self {
        Self { who: NEXT.fetch_add(1, Ordering::Relaxed), own: Vec::new(), others: Vec::new(), read: 0 }
    }

    #[inline]
    pub(super) fn push(&mut self, slot: Slot) {
        if self.own.len() < MAX_NEWS {
            self.own.push(slot);
        }
    }

    #[inline(always)]
    pub(super) fn are_many(&self) -> bool {
        self.own.len() >= BATCH
    }
}

impl Learned {
    /// Hands over what a thread has learned, and puts into its cache what others have. Does nothing while another thread does the same:
    /// words can wait.
    #[inline(never)]
    pub(super) fn exchange(&self, news: &mut News, cache: &mut ShortCache, vocab: &Vocab) {
        news.others.clear();
        {
            let mut ring = match self.0.try_lock() {
                Ok(ring) => ring,
                Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
                Err(TryLockError::WouldBlock) => return,
            };
            ring.exchange(news);
        }
        news.own.clear();
        cache.take_over(&news.others, vocab);
    }
}

impl Ring {
    fn exchange(&mut self, news: &mut News) {
        self.is_shared |= self.last != 0 && self.last != news.who;
        self.last = news.who;
        if !self.is_shared {
            return;
        }
        let from = news.read.max(self.written.saturating_sub(self.slots.len() as u64));
        let to = self.written.min(from + MAX_TAKEN as u64);
        news.others.extend((from..to).map(|at| self.slots[at as usize % KEPT]));
        let is_up_to_date = to == self.written;
        for &slot in &news.own {
            let at = self.written as usize % KEPT;
            match self.slots.get_mut(at) {
                Some(place) => *place = slot,
                None => self.slots.push(slot),
            }
            self.written += 1;
        }
        // Who is behind will meet its own words among the others', which does no harm.
        news.read = if is_up_to_date { self.written } else { to };
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache::WIDE;
    use super::super::hash::HashKey;
    use super::super::word::ShortKey;
    use super::*;

    struct Thread {
        news: News,
        cache: ShortCache,
    }

    impl Thread {
        fn new() -> Self {
            Self { news: News::new(), cache: ShortCache::new(false) }
        }

        fn learn(&mut self, words: std::ops::Range<u32>, learned: &Learned, vocab: &Vocab) {
            for word in words {
                if let Some(slot) = self.cache.insert(key(word), vocab.hash(key(word)), &[word, 7], vocab) {
                    self.news.push(slot);
                }
                if self.news.are_many() {
                    learned.exchange(&mut self.news, &mut self.cache, vocab);
                }
            }
        }

        fn knows(&self, words: std::ops::Range<u32>, vocab: &Vocab) -> usize {
            let knows = |word: &u32| {
                let (key, hash) = (key(*word), vocab.hash(key(*word)));
                let found = self.cache.get::<WIDE>(key, hash).or_else(|| self.cache.get_second(key, hash));
                found.is_some_and(|(ids, len)| {
                    assert_eq!(ids[..len], [*word, 7]);
                    true
                })
            };
            words.filter(knows).count()
        }
    }

    fn key(word: u32) -> ShortKey {
        ShortKey::new(format!("{:08x}", word.wrapping_mul(0x9e37_79b1)).as_bytes(), 0, 8)
    }

    fn vocab() -> Vocab {
        Vocab::new(&[], HashKey::random()).unwrap()
    }

    #[test]
    fn what_one_thread_learns_the_other_knows() {
        let (vocab, learned) = (vocab(), Learned::default());
        let (mut one, mut two) = (Thread::new(), Thread::new());
        for turn in 0..20 {
            one.learn(turn * 100..turn * 100 + 100, &learned, &vocab);
            two.learn(1_000_000 + turn * 100..1_000_100 + turn * 100, &learned, &vocab);
        }
        let (theirs, ours) = (two.knows(200..1800, &vocab), one.knows(1_000_200..1_001_800, &vocab));
        // Small caches lose some words, by their hashes.
        assert!(theirs > 1000 && ours > 1000, "{theirs}, {ours}");
    }

    #[test]
    fn who_is_alone_hands_nothing_over() {
        let (vocab, learned) = (vocab(), Learned::default());
        Thread::new().learn(0..10_000, &learned, &vocab);
        assert_eq!(learned.0.lock().unwrap().slots.len(), 0);
    }

    #[test]
    fn who_is_far_behind_takes_over_the_last_words_a_part_at_a_time() {
        let (vocab, learned) = (vocab(), Learned::default());
        let (mut one, mut two, mut late) = (Thread::new(), Thread::new(), Thread::new());
        two.learn(2_000_000..2_000_000 + BATCH as u32, &learned, &vocab);
        let words = 3 * KEPT as u32;
        one.learn(0..words, &learned, &vocab);
        assert_eq!(learned.0.lock().unwrap().slots.len(), KEPT);
        late.learn(3_000_000..3_000_000 + BATCH as u32, &learned, &vocab);
        assert!((1..=MAX_TAKEN).contains(&late.knows(0..words, &vocab)));
        let calls = KEPT.div_ceil(MAX_TAKEN);
        late.learn(3_100_000..3_100_000 + (calls * BATCH) as u32, &learned, &vocab);
        let known = late.knows(words - KEPT as u32..words, &vocab);
        assert!(known > KEPT * 2 / 3, "{known}");
    }
}
