//! The next words of a text, which are found, then looked up, then written: together, so that they wait for memory together.

use super::ByteLevelBpe;
use super::cache::ShortCache;
use super::long_cache::LongCache;
use super::pending::Pending;
use super::scan::{Piece, Scanner};
use super::short_table::{NARROW, View};
use super::simd;
use super::sink::Sink;
use super::window::{Tail, Window};
use super::word::{MAX_SHORT, ShortKey, Word};

/// A block with so many words takes no more.
const ENOUGH: usize = 32;
/// One window may add as many words as it has bytes.
const ROOM: usize = ENOUGH + 64;

pub(super) struct Block {
    words: [Word; ROOM],
    len: usize,
}

impl Block {
    pub(super) fn new() -> Self {
        Self { words: [Word::NONE; ROOM], len: 0 }
    }

    /// Finds the words from `start` on, and begins to bring near where the caches have them. Gives where the next word begins.
    #[inline(always)]
    pub(super) fn fill<S: Scanner, B: simd::Block>(
        &mut self,
        tokenizer: &ByteLevelBpe,
        scanner: S,
        piece: Piece<'_>,
        mut start: usize,
        (short, long): (View<'_>, &LongCache),
    ) -> usize {
        let word = |start: usize, end: usize, key: ShortKey| {
            if key == ShortKey::NONE {
                return Word { start, end, key, hash: touch_long(tokenizer, &piece.bytes[start..end], long) };
            }
            let hash = tokenizer.key.pair(key.low, key.high);
            short.touch(hash);
            Word { start, end, key, hash }
        };
        let mut places = self.words.iter_mut();
        while start < piece.bytes.len() && places.len() > ROOM - ENOUGH {
            let mut tail = Tail::new();
            if let Some(window) = Window::<B>::load(piece.bytes, start, &mut tail) {
                let (mut starts, mut from) = (scanner.starts(&window), 0);
                while starts != 0 {
                    let to = starts.trailing_zeros() as usize;
                    starts &= starts - 1;
                    let Some(place) = places.next() else { break };
                    *place = word(start + from, start + to, window.key(from, to));
                    from = to;
                }
                if from > 0 {
                    start += from;
                    continue;
                }
            }
            let end = scanner.next(piece, start);
            let is_short = end - start <= MAX_SHORT;
            let key = if is_short { ShortKey::new(piece.bytes, start, end) } else { ShortKey::NONE };
            let Some(place) = places.next() else { break };
            *place = word(start, end, key);
            start = end;
        }
        self.len = ROOM - places.len();
        start
    }

    /// Writes the tokens of the words that the caches hold, each short word's of up to `N`. The others are left pending.
    #[inline(always)]
    pub(super) fn write<const N: usize, B: simd::Block>(
        &self,
        tokenizer: &ByteLevelBpe,
        bytes: &[u8],
        (short, long): (&ShortCache, &LongCache),
        pending: &mut Pending,
        sink: &mut Sink<'_>,
    ) {
        let (mut words, table) = (self.words[..self.len].iter(), short.table());
        while let Some(word) = sink.push_words(&mut words, |word| table.get::<N, B>(word.key, word.hash)) {
            // Vocabularies with so few tokens have many such words.
            if N == NARROW
                && word.key != ShortKey::NONE
                && let Some(tokens) = short.get_many(word.key, word.hash)
            {
                sink.push_word(tokens);
                continue;
            }
            write_missed::<N>(word, tokenizer, bytes, (short, long), pending, sink);
        }
    }
}

/// Writes the tokens of a word that the cache does not hold where it is looked for first.
#[inline(never)]
fn write_missed<const N: usize>(
    word: &Word,
    tokenizer: &ByteLevelBpe,
    bytes: &[u8],
    (short, long): (&ShortCache, &LongCache),
    pending: &mut Pending,
    sink: &mut Sink<'_>,
) {
    if word.key == ShortKey::NONE {
        return match long.get(&bytes[word.start..word.end], word.hash) {
            Some(ids) => sink.push_bytes(ids),
            None => pending.push(*word, bytes, sink),
        };
    }
    if N != NARROW
        && let Some(tokens) = short.get_many(word.key, word.hash)
    {
        return sink.push_word(tokens);
    }
    if let Some(tokens) = short.table().get_second::<N>(word.key, word.hash) {
        return sink.push_word(tokens);
    }
    tokenizer.vocab.touch_short(word.hash);
    pending.push(*word, bytes, sink);
}

/// The hash of a word that is too long for a key; begins to bring near where the cache has it.
#[inline(never)]
fn touch_long(tokenizer: &ByteLevelBpe, word: &[u8], long: &LongCache) -> u64 {
    let hash = tokenizer.key.bytes(word);
    long.touch(hash);
    hash
}
