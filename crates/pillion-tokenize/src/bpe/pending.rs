//! Words that no cache holds. They wait until there are some, are looked up and merged together, and only then take
//! their place among the ids: alone each would wait for memory many times over.

use super::ByteLevelBpe;
use super::cache::ShortCache;
use super::long_cache::{LongCache, MAX_LONG};
use super::merge::MergeRoom;
use super::sink::Sink;
use super::word::{MAX_SHORT, Word};

/// Different words that wait at most, when a block of them ends, and places for them.
const MAX_PENDING: usize = 32;
const MAX_PLACES: usize = 128;

/// Where the tokens of a word are.
#[derive(Clone, Copy)]
enum Tokens {
    One(u32),
    Many {
        start: usize,
        end: usize,
    },
    /// It is still to be merged.
    Unknown,
}

/// The words that wait, all of one piece and all different: a new word often comes again soon.
#[derive(Default)]
pub(super) struct Pending {
    words: Vec<Word>,
    numbers: Numbers,
    places: Vec<Place>,
    tokens: Vec<Tokens>,
    /// The words that are to be merged.
    open: Vec<usize>,
    many: Vec<u32>,
    room: MergeRoom,
}

/// An id that holds the place of a word, by their numbers.
#[derive(Clone, Copy)]
struct Place {
    id: usize,
    word: usize,
}

impl Pending {
    /// Adds a word of `bytes`, and an id to the sink that holds its place.
    #[inline]
    pub(super) fn push(&mut self, word: Word, bytes: &[u8], sink: &mut Sink<'_>) {
        let is_same = |other: &Word| {
            other.hash == word.hash
                && other.key == word.key
                && (word.is_short() || bytes[other.start..other.end] == bytes[word.start..word.end])
        };
        let number = self.numbers.of(word.hash, self.words.len(), |number| self.words.get(number).is_some_and(is_same));
        if number == self.words.len() {
            self.words.push(word);
        }
        self.places.push(Place { id: sink.len(), word: number });
        sink.push(0);
    }

    #[inline(always)]
    pub(super) fn is_full(&self) -> bool {
        self.words.len() >= MAX_PENDING || self.places.len() >= MAX_PLACES
    }

    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Finds the tokens of all words, which are parts of `bytes`, puts them into the sink and into the caches, and goes on to the newest of these.
    #[inline(never)]
    pub(super) fn settle(
        &mut self,
        tokenizer: &ByteLevelBpe,
        bytes: &[u8],
        (short, long): (&mut ShortCache, &mut LongCache),
        sink: &mut Sink<'_>,
    ) {
        self.find(tokenizer, bytes, short);
        short.touch_to_write(self.words.iter().filter(|word| word.is_short()).map(|word| word.hash));
        self.merge(tokenizer, bytes);
        for (word, tokens) in self.words.iter().zip(&self.tokens) {
            let tokens = match tokens {
                Tokens::One(id) => std::slice::from_ref(id),
                Tokens::Many { start, end } => &self.many[*start..*end],
                Tokens::Unknown => continue,
            };
            let text = &bytes[word.start..word.end];
            match text.len() {
                ..=MAX_SHORT => short.insert(word.key, word.hash, tokens),
                ..=MAX_LONG => long.insert(text, word.hash, tokens),
                _ => {}
            }
        }
        self.write(sink);
        self.words.clear();
        self.numbers = Numbers::default();
        self.places.clear();
        short.tell(&tokenizer.short, &tokenizer.vocab);
    }

    /// Finds the words that are tokens, and those that stand in the full table before the newest.
    fn find(&mut self, tokenizer: &ByteLevelBpe, bytes: &[u8], short: &ShortCache) {
        const MAX_KEPT: usize = 1 << 14;
        self.tokens.clear();
        self.open.clear();
        self.many.clear();
        self.many.shrink_to(MAX_KEPT);
        let previous = short.previous();
        for (at, word) in self.words.iter().enumerate() {
            let whole = if word.is_short() {
                tokenizer.vocab.whole_short(word.key, word.hash)
            } else {
                tokenizer.vocab.whole_long(&bytes[word.start..word.end], word.hash)
            };
            let packed = || previous.as_ref().filter(|_| word.is_short())?.table.find(word.key, word.hash);
            let tokens = if let Some(id) = whole {
                Tokens::One(id)
            } else if let Some(packed) = packed() {
                let start = self.many.len();
                packed.append_to(&mut self.many, short.is_narrow());
                Tokens::Many { start, end: self.many.len() }
            } else {
                self.open.push(at);
                Tokens::Unknown
            };
            self.tokens.push(tokens);
        }
    }

    /// Merges the words that are left.
    fn merge(&mut self, tokenizer: &ByteLevelBpe, bytes: &[u8]) {
        let Self { words, tokens, open, many, room, .. } = self;
        let texts = open.iter().map(|&at| &bytes[words[at].start..words[at].end]);
        let mut merged = open.iter();
        let mut start = many.len();
        room.encode(&tokenizer.merges, texts, many, |end| {
            if let Some(&at) = merged.next() {
                tokens[at] = Tokens::Many { start, end };
            }
            start = end;
        });
    }

    /// Puts the tokens into their places, from the last to the first, and moves what stands between them.
    fn write(&self, sink: &mut Sink<'_>) {
        let len = |tokens: Tokens| match tokens {
            Tokens::One(_) => 1,
            Tokens::Many { start, end } => end - start,
            Tokens::Unknown => 0,
        };
        let (mut total, mut is_any_lost) = (0, false);
        for place in &self.places {
            let len = len(self.tokens[place.word]);
            total += len;
            is_any_lost |= len == 0;
        }
        if is_any_lost {
            return self.write_anew(sink);
        }
        let old = sink.len();
        let ids = sink.resize(old + total - self.places.len());
        let (mut from, mut to) = (old, ids.len());
        for place in self.places.iter().rev() {
            let (tokens, after) = (self.tokens[place.word], place.id + 1);
            to -= from - after;
            if to != after {
                ids.copy_within(after..from, to);
            }
            to -= len(tokens);
            match tokens {
                Tokens::Unknown => {}
                Tokens::One(id) => ids[to] = id,
                Tokens::Many { start, end } => ids[to..to + end - start].copy_from_slice(&self.many[start..end]),
            }
            from = place.id;
        }
    }

    /// Like [`Self::write`], where a word has lost all its bytes, so that what stands after it moves the other way.
    #[cold]
    fn write_anew(&self, sink: &mut Sink<'_>) {
        let (Some(first), len) = (self.places.first(), sink.len()) else { return };
        let old = sink.resize(len)[first.id..].to_vec();
        let mut ids = Vec::with_capacity(old.len() + self.many.len());
        let ends = self.places.iter().skip(1).map(|place| place.id).chain(std::iter::once(len));
        for (place, end) in self.places.iter().zip(ends) {
            match self.tokens[place.word] {
                Tokens::Unknown => {}
                Tokens::One(id) => ids.push(id),
                Tokens::Many { start, end } => ids.extend_from_slice(&self.many[start..end]),
            }
            ids.extend_from_slice(&old[place.id + 1 - first.id..end - first.id]);
        }
        sink.resize(first.id + ids.len())[first.id..].copy_from_slice(&ids);
    }
}

/// A small hash table of the numbers of words that wait.
struct Numbers([u8; Self::ROOM]);

impl Numbers {
    /// More than twice as many words as can ever wait.
    const ROOM: usize = 256;
    const FREE: u8 = u8::MAX;

    /// The number of the word with this hash that `is_same`; if there is none, that word's number is `next`.
    #[inline(always)]
    fn of(&mut self, hash: u64, next: usize, is_same: impl Fn(usize) -> bool) -> usize {
        let mut at = hash as usize % Self::ROOM;
        loop {
            match self.0[at] {
                Self::FREE => {
                    self.0[at] = next as u8;
                    return next;
                }
                number if is_same(usize::from(number)) => return usize::from(number),
                _ => at = (at + 1) % Self::ROOM,
            }
        }
    }
}

impl Default for Numbers {
    fn default() -> Self {
        Self([Self::FREE; Self::ROOM])
    }
}
