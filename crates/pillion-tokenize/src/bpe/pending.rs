//! Words that no cache holds. They wait until there are some, are looked up and merged together, and only then take
//! their place among the ids: alone each would wait for memory many times over.

use super::ByteLevelBpe;
use super::cache::{LongCache, MAX_LONG, ShortCache};
use super::encode::{Sink, Word};
use super::merge::MergeRoom;
use super::word::MAX_SHORT;

/// Words that wait at most.
const MAX_PENDING: usize = 32;

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

/// The words that wait, all of one piece.
#[derive(Default)]
pub(super) struct Pending {
    words: Vec<Word>,
    /// The place among the ids that one id holds for each word.
    places: Vec<usize>,
    tokens: Vec<Tokens>,
    /// The words, by their places, that no cache holds.
    new: Vec<usize>,
    /// Those of them that are to be merged.
    open: Vec<usize>,
    many: Vec<u32>,
    room: MergeRoom,
}

impl Pending {
    /// Adds a word, and an id to the sink that holds its place.
    #[inline]
    pub(super) fn push(&mut self, word: Word, sink: &mut Sink<'_>) {
        self.words.push(word);
        self.places.push(sink.len());
        sink.push(0);
    }

    #[inline(always)]
    pub(super) fn is_full(&self) -> bool {
        self.words.len() >= MAX_PENDING
    }

    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Finds the tokens of all words, which are parts of `bytes`, puts them into the sink and into the caches.
    #[inline(never)]
    pub(super) fn settle(
        &mut self,
        tokenizer: &ByteLevelBpe,
        bytes: &[u8],
        short: &mut ShortCache,
        long: &mut LongCache,
        sink: &mut Sink<'_>,
    ) {
        self.find(tokenizer, bytes, short);
        self.merge(tokenizer, bytes);
        for &at in &self.new {
            let word = &self.words[at];
            let tokens = match &self.tokens[at] {
                Tokens::One(id) => std::slice::from_ref(id),
                Tokens::Many { start, end } => &self.many[*start..*end],
                Tokens::Unknown => continue,
            };
            let text = &bytes[word.start..word.end];
            match text.len() {
                ..=MAX_SHORT => short.insert(word.key, word.hash, tokens, &tokenizer.vocab),
                ..=MAX_LONG => long.insert(text, word.hash, tokens),
                _ => {}
            }
        }
        self.write(sink);
        self.words.clear();
        self.places.clear();
    }

    /// Finds the words that the cache holds where nobody has looked yet, and those that are tokens.
    fn find(&mut self, tokenizer: &ByteLevelBpe, bytes: &[u8], short: &ShortCache) {
        const MAX_KEPT: usize = 1 << 14;
        self.tokens.clear();
        self.new.clear();
        self.open.clear();
        self.many.clear();
        self.many.shrink_to(MAX_KEPT);
        for word in self.words.iter().filter(|word| word.is_short()) {
            short.touch_second(word.hash);
            tokenizer.vocab.touch_short(word.hash);
        }
        for (at, word) in self.words.iter().enumerate() {
            let whole = if word.is_short() {
                if let Some((ids, count)) = short.get_second(word.key, word.hash) {
                    let start = self.many.len();
                    self.many.extend(ids.into_iter().take(count));
                    self.tokens.push(Tokens::Many { start, end: self.many.len() });
                    continue;
                }
                tokenizer.vocab.whole_short(word.key)
            } else {
                tokenizer.vocab.whole_long(&bytes[word.start..word.end], word.hash)
            };
            self.new.push(at);
            if whole.is_none() {
                self.open.push(at);
            }
            self.tokens.push(whole.map_or(Tokens::Unknown, Tokens::One));
        }
    }

    /// Merges the words that are left.
    fn merge(&mut self, tokenizer: &ByteLevelBpe, bytes: &[u8]) {
        let Self { words, tokens, open, many, room, .. } = self;
        let texts = open.iter().map(|&at| &bytes[words[at].start..words[at].end]);
        let mut merged = open.iter();
        room.encode(&tokenizer.merges, texts, |ids| {
            let start = many.len();
            many.extend_from_slice(ids);
            if let Some(&at) = merged.next() {
                tokens[at] = Tokens::Many { start, end: many.len() };
            }
        });
    }

    /// Puts the tokens into their places, from the last to the first, and moves what stands between them.
    fn write(&self, sink: &mut Sink<'_>) {
        let len = |tokens: &Tokens| match tokens {
            Tokens::One(_) => 1,
            Tokens::Many { start, end } => end - start,
            Tokens::Unknown => 0,
        };
        if self.tokens.iter().any(|tokens| len(tokens) == 0) {
            return self.write_anew(sink);
        }
        let total: usize = self.tokens.iter().map(len).sum();
        let old = sink.len();
        let ids = sink.resize(old + total - self.places.len());
        let (mut from, mut to) = (old, ids.len());
        for (&place, tokens) in self.places.iter().zip(&self.tokens).rev() {
            let after = place + 1;
            to -= from - after;
            if to != after {
                ids.copy_within(after..from, to);
            }
            to -= len(tokens);
            match tokens {
                Tokens::Unknown => {}
                Tokens::One(id) => ids[to] = *id,
                Tokens::Many { start, end } => ids[to..to + end - start].copy_from_slice(&self.many[*start..*end]),
            }
            from = place;
        }
    }

    /// Like [`Self::write`], where a word has lost all its bytes, so that what stands after it moves the other way.
    #[cold]
    fn write_anew(&self, sink: &mut Sink<'_>) {
        let (Some(&first), len) = (self.places.first(), sink.len()) else { return };
        let old = sink.resize(len)[first..].to_vec();
        let mut ids = Vec::with_capacity(old.len() + self.many.len());
        let ends = self.places.iter().skip(1).chain(std::iter::once(&len));
        for ((&place, &end), tokens) in self.places.iter().zip(ends).zip(&self.tokens) {
            match tokens {
                Tokens::Unknown => {}
                Tokens::One(id) => ids.push(*id),
                Tokens::Many { start, end } => ids.extend_from_slice(&self.many[*start..*end]),
            }
            ids.extend_from_slice(&old[place + 1 - first..end - first]);
        }
        sink.resize(first + ids.len())[first..].copy_from_slice(&ids);
    }
}
