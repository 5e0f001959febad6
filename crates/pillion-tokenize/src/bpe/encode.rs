//! Text to ids: added tokens, normal form, pre-tokens, then each word from a cache or by merging.

use super::ByteLevelBpe;
use super::added::ParseSpecial;
use super::cache::{LongCache, MAX_INLINE, ShortCache};
use super::normalize;
use super::pattern::with_scanner;
use super::pending::Pending;
use super::scan::{Piece, Scanner};
use super::window::{Tail, Window};
use super::word::{MAX_SHORT, ShortKey};

/// The longest text that the engine takes, in bytes.
pub const MAX_TEXT: usize = u32::MAX as usize - 1;

/// A text is longer than [`MAX_TEXT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text has {0} bytes, more than {MAX_TEXT}")]
pub struct TextTooLong(usize);

impl TextTooLong {
    pub(super) fn check(text: &str) -> Result<(), Self> {
        if text.len() > MAX_TEXT { Err(Self(text.len())) } else { Ok(()) }
    }
}

/// What a thread keeps between calls: caches of words and room to work in. It is cheap to make, grows with use up to a
/// few MiB, and never changes a result. One serves any number of tokenizers, but changing between them empties it.
pub struct Scratch {
    /// The tokenizer whose words the caches hold.
    owner: u64,
    short: ShortCache,
    long: LongCache,
    pending: Pending,
    pub(super) normal: String,
    pub(super) prefixed: String,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            owner: 0,
            short: ShortCache::new(),
            long: LongCache::new(),
            pending: Pending::default(),
            normal: String::new(),
            prefixed: String::new(),
        }
    }

    /// Empties the caches if they hold another tokenizer's words.
    #[inline]
    pub(super) fn own(&mut self, tokenizer: &ByteLevelBpe) {
        const MAX_KEPT: usize = 1 << 20;
        if self.owner != tokenizer.serial {
            self.short = ShortCache::new();
            self.long = LongCache::new();
            self.owner = tokenizer.serial;
        }
        for text in [&mut self.normal, &mut self.prefixed] {
            if text.capacity() > MAX_KEPT {
                *text = String::new();
            }
        }
    }
}

impl ByteLevelBpe {
    /// Appends the ids of `text` to `out`, without the tokens that the post-processor adds.
    pub fn encode_into(
        &self,
        text: &str,
        parse: ParseSpecial<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) -> Result<(), TextTooLong> {
        TextTooLong::check(text)?;
        scratch.own(self);
        out.reserve(text.len() / BYTES_PER_TOKEN + MAX_INLINE);
        let mut sink = Sink::new(out);
        self.added.split_plain(text, parse, |part| match part.id {
            Some(id) => sink.push(id),
            None => self.between(&text[part.range], parse, scratch, &mut sink),
        });
        sink.finish();
        Ok(())
    }

    /// The text between added tokens that are not normalized.
    #[inline]
    fn between(&self, text: &str, parse: ParseSpecial<'_>, scratch: &mut Scratch, sink: &mut Sink<'_>) {
        if !self.composes {
            return self.normalized(text, parse, scratch, sink);
        }
        let mut normal = std::mem::take(&mut scratch.normal);
        let changed = normalize::compose(text, &mut normal);
        self.normalized(if changed { &normal } else { text }, parse, scratch, sink);
        scratch.normal = normal;
    }

    #[inline]
    fn normalized(&self, text: &str, parse: ParseSpecial<'_>, scratch: &mut Scratch, sink: &mut Sink<'_>) {
        self.added.split_normalized(text, parse, |part| match part.id {
            Some(id) => sink.push(id),
            None => self.piece(&text[part.range], scratch, sink),
        });
    }

    #[inline]
    pub(super) fn piece(&self, piece: &str, scratch: &mut Scratch, sink: &mut Sink<'_>) {
        if self.prefix_space && !piece.starts_with(' ') {
            let mut prefixed = std::mem::take(&mut scratch.prefixed);
            prefixed.clear();
            prefixed.push(' ');
            prefixed.push_str(piece);
            with_scanner!(self.pattern, scanner => self.words(scanner, Piece::new(&prefixed), scratch, sink));
            scratch.prefixed = prefixed;
        } else {
            with_scanner!(self.pattern, scanner => self.words(scanner, Piece::new(piece), scratch, sink));
        }
    }

    #[inline(never)]
    fn words<S: Scanner>(&self, scanner: S, piece: Piece<'_>, scratch: &mut Scratch, sink: &mut Sink<'_>) {
        let Scratch { short, long, pending, .. } = scratch;
        let mut ahead = Ahead { words: [Word::NONE; Ahead::ROOM], len: 0 };
        let mut start = 0;
        while start < piece.bytes.len() {
            // The words of a block are found first and looked up then, so that the look-ups wait for memory together.
            ahead.len = 0;
            while start < piece.bytes.len() && ahead.len < Ahead::ENOUGH {
                start = self.find_words(scanner, piece, start, (short, long), &mut ahead);
            }
            for &word in &ahead.words[..ahead.len] {
                if word.key == ShortKey::NONE {
                    Self::long_word(word, piece.bytes, long, pending, sink);
                    continue;
                }
                match short.get(word.key, word.hash) {
                    Some((ids, count)) => sink.push_inline(ids, count),
                    None => pending.push(word, sink),
                }
            }
            if pending.is_full() {
                pending.settle(self, piece.bytes, short, long, sink);
            }
        }
        if !pending.is_empty() {
            pending.settle(self, piece.bytes, short, long, sink);
        }
    }

    /// Finds the word at `start`, or several. Gives where the next begins.
    #[inline(always)]
    fn find_words<S: Scanner>(
        &self,
        scanner: S,
        piece: Piece<'_>,
        start: usize,
        (short, long): (&ShortCache, &LongCache),
        ahead: &mut Ahead,
    ) -> usize {
        let mut add = |start: usize, end: usize, key: ShortKey| {
            if key == ShortKey::NONE {
                return self.add_long(piece.bytes, start, end, long, ahead);
            }
            let hash = self.key.pair(key.low, key.high);
            short.touch(hash);
            ahead.push(Word { start, end, key, hash });
        };
        let mut tail = Tail::new();
        if let Some(window) = Window::load(piece.bytes, start, &mut tail) {
            let (mut starts, mut from) = (scanner.starts(&window), 0);
            while starts != 0 {
                let to = starts.trailing_zeros() as usize;
                starts &= starts - 1;
                add(start + from, start + to, window.key(from, to));
                from = to;
            }
            if from > 0 {
                return start + from;
            }
        }
        let end = scanner.next(piece, start);
        let is_short = end - start <= MAX_SHORT;
        add(start, end, if is_short { ShortKey::new(piece.bytes, start, end) } else { ShortKey::NONE });
        end
    }

    /// Adds a word that is too long for a key.
    #[inline(never)]
    fn add_long(&self, bytes: &[u8], start: usize, end: usize, long: &LongCache, ahead: &mut Ahead) {
        // The vocabulary has words of any length.
        let hash = self.key.bytes(&bytes[start..end]);
        long.touch(hash);
        ahead.push(Word { start, end, key: ShortKey::NONE, hash });
    }

    /// Looks up a word that is too long for a key.
    #[inline(never)]
    fn long_word(word: Word, bytes: &[u8], long: &LongCache, pending: &mut Pending, sink: &mut Sink<'_>) {
        match long.get(&bytes[word.start..word.end], word.hash) {
            Some(ids) => sink.append(|out| out.extend(ids.iter().map(|&id| u32::from_le_bytes(id)))),
            None => pending.push(word, sink),
        }
    }
}

/// A word of a piece.
#[derive(Clone, Copy)]
pub(super) struct Word {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Meaningless unless the word is short.
    pub(super) key: ShortKey,
    pub(super) hash: u64,
}

impl Word {
    /// Whether it has a key.
    pub(super) fn is_short(&self) -> bool {
        self.end - self.start <= MAX_SHORT
    }

    const NONE: Self = Self { start: 0, end: 0, key: ShortKey::NONE, hash: 0 };
}

/// Words that are looked up together.
struct Ahead {
    words: [Word; Self::ROOM],
    len: usize,
}

impl Ahead {
    const ENOUGH: usize = 32;
    /// A window may add as many as it has bytes.
    const ROOM: usize = Self::ENOUGH + 64;

    #[inline(always)]
    fn push(&mut self, word: Word) {
        if let Some(place) = self.words.get_mut(self.len) {
            *place = word;
            self.len += 1;
        }
    }
}

/// Most texts have more bytes than that for each token. Room is made at once for so many; texts of more tokens make more.
const BYTES_PER_TOKEN: usize = 3;

/// The end of a list of ids, with room written ahead, so that a few ids are one store.
pub(super) struct Sink<'a> {
    ids: &'a mut Vec<u32>,
    len: usize,
}

const AHEAD: usize = 512;

impl<'a> Sink<'a> {
    pub(super) fn new(ids: &'a mut Vec<u32>) -> Self {
        Self { len: ids.len(), ids }
    }

    pub(super) fn finish(self) {
        self.ids.truncate(self.len);
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Makes the list so long, and gives all of it.
    pub(super) fn resize(&mut self, len: usize) -> &mut [u32] {
        if self.ids.len() < len {
            self.ids.resize(len, 0);
        }
        self.len = len;
        &mut self.ids[..len]
    }

    #[inline(always)]
    pub(super) fn push(&mut self, id: u32) {
        self.push_inline([id; MAX_INLINE], 1);
    }

    /// Appends the first `count` of `ids`.
    #[inline(always)]
    fn push_inline(&mut self, ids: [u32; MAX_INLINE], count: usize) {
        match self.ids.get_mut(self.len..self.len + MAX_INLINE) {
            Some(room) => room.copy_from_slice(&ids),
            None => self.push_at_end(ids),
        }
        self.len += count;
    }

    #[cold]
    #[inline(never)]
    fn push_at_end(&mut self, ids: [u32; MAX_INLINE]) {
        self.ids.resize(self.len + AHEAD, 0);
        self.ids[self.len..self.len + MAX_INLINE].copy_from_slice(&ids);
    }

    /// Lets `write` append to the list itself.
    #[inline]
    fn append(&mut self, write: impl FnOnce(&mut Vec<u32>)) {
        self.ids.truncate(self.len);
        write(self.ids);
        self.len = self.ids.len();
    }
}
