//! Text to ids: added tokens, normal form, pre-tokens, then each word from a cache or by merging.

use super::ByteLevelBpe;
use super::added::ParseSpecial;
use super::block::Block;
use super::cache::ShortCache;
use super::long_cache::LongCache;
use super::normalize;
use super::pattern::with_scanner;
use super::pending::Pending;
use super::scan::{Piece, Scanner};
use super::short_table::{NARROW, WIDE};
use super::simd::{self, Work, fastest};
use super::sink::Sink;

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

/// What a thread keeps between calls: its way to the words that the tokenizer knows, the rarer ones of its own, and room to work in. It is cheap
/// to make, grows with use up to a few MiB, and never changes a result. One serves any number of tokenizers, but changing between them
/// empties it.
pub struct Scratch {
    /// The tokenizer whose words the caches hold.
    owner: u64,
    short: ShortCache,
    long: LongCache,
    pending: Pending,
    block: Box<Block>,
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
            block: Box::new(Block::new()),
            normal: String::new(),
            prefixed: String::new(),
        }
    }

    /// Empties the caches if they hold another tokenizer's words.
    #[inline]
    pub(super) fn own(&mut self, tokenizer: &ByteLevelBpe) {
        const MAX_KEPT: usize = 1 << 20;
        if self.owner != tokenizer.serial {
            self.short.change_to(&tokenizer.short);
            self.long = LongCache::new();
            self.owner = tokenizer.serial;
        }
        self.short.follow(&tokenizer.short);
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
        out.reserve(text.len() / BYTES_PER_TOKEN + text.len().min(ROOM_AHEAD));
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

    #[inline(always)]
    fn words<S: Scanner>(&self, scanner: S, piece: Piece<'_>, scratch: &mut Scratch, sink: &mut Sink<'_>) {
        if scratch.short.is_narrow() {
            fastest(Words::<_, NARROW> { tokenizer: self, scanner, piece, scratch, sink });
        } else {
            fastest(Words::<_, WIDE> { tokenizer: self, scanner, piece, scratch, sink });
        }
    }
}

/// The words of a piece, on their way into a sink, each short word with up to `N` tokens in the cache.
struct Words<'a, 'b, S, const N: usize> {
    tokenizer: &'a ByteLevelBpe,
    scanner: S,
    piece: Piece<'a>,
    scratch: &'a mut Scratch,
    sink: &'a mut Sink<'b>,
}

impl<S: Scanner, const N: usize> Work for Words<'_, '_, S, N> {
    #[inline(always)]
    fn run<B: simd::Block>(self) {
        let Self { tokenizer, scanner, piece, scratch, sink } = self;
        let Scratch { short, long, pending, block, .. } = scratch;
        let mut start = 0;
        while start < piece.bytes.len() {
            start = block.fill::<S, B>(tokenizer, scanner, piece, start, (short.table(), long));
            block.write::<N, B>(tokenizer, piece.bytes, (short, long), pending, sink);
            if pending.is_full() {
                pending.settle(tokenizer, piece.bytes, (short, long), sink);
            }
        }
        if !pending.is_empty() {
            pending.settle(tokenizer, piece.bytes, (short, long), sink);
        }
    }
}

/// Most texts have more bytes than that for each token. Room is made at once for so many; texts of more tokens make more.
const BYTES_PER_TOKEN: usize = 3;
/// Room for the last words, which is made before it is known how many tokens these have.
const ROOM_AHEAD: usize = 400;
