//! Scanners: one per known pattern, each finding where the next pre-token ends. They know nothing of tokens.

mod cl100k;
mod deepseek;
mod gpt2;
mod o200k;

pub(super) use cl100k::Cl100k;
pub(super) use deepseek::DeepSeek;
pub(super) use gpt2::Gpt2;
pub(super) use o200k::O200k;

use super::simd::Block;
use super::table::{Class, ClassTable, Set, kind};
use super::window::{Kinds, Window};

/// A piece of text between added tokens, and the class table. A pattern sees nothing before or after the piece.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) bytes: &'a [u8],
    table: &'static ClassTable,
}

impl<'a> Piece<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), table: ClassTable::get() }
    }

    #[inline(always)]
    fn class(self, at: usize) -> (Class, usize) {
        self.table.at(self.bytes, at)
    }

    /// The class of the character at `at`, if the piece goes on there.
    #[inline(always)]
    fn get(self, at: usize) -> Option<(Class, usize)> {
        (at < self.bytes.len()).then(|| self.class(at))
    }

    #[inline(always)]
    fn byte(self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    /// The end of the run of characters that satisfy `holds`, from `at`.
    #[inline(always)]
    fn run(self, mut at: usize, holds: impl Fn(Class) -> bool) -> usize {
        while at < self.bytes.len() {
            let (class, len) = self.class(at);
            if !holds(class) {
                break;
            }
            at += len;
        }
        at
    }

    /// The end of the run of characters in `set`, which holds all letters, from `at`.
    #[inline(always)]
    fn letters(self, at: usize, set: Set) -> usize {
        let at = ascii_letters(self.bytes, at);
        match self.byte(at) {
            Some(byte) if byte >= 0x80 => self.wide_letters(at, set),
            _ => at,
        }
    }

    #[inline]
    fn wide_letters(self, at: usize, set: Set) -> usize {
        self.run(at, |class| set.has(class))
    }
}

/// Where the pre-token that begins at `start` ends: after `start`, at or before the end of the piece.
pub(super) trait Scanner: Copy {
    fn next(self, piece: Piece<'_>, start: usize) -> usize;

    /// Where pre-tokens begin in the window, whose first byte begins one: a bit for each that is sure, but none for the first. All that
    /// begin before the last of them have a bit.
    #[inline(always)]
    fn starts<B: Block>(self, _window: &Window<'_, B>) -> u64 {
        0
    }
}

/// No pattern: the piece is one pre-token.
#[derive(Clone, Copy)]
pub(super) struct Whole;

impl Scanner for Whole {
    #[inline(always)]
    fn next(self, piece: Piece<'_>, _start: usize) -> usize {
        piece.bytes.len()
    }
}

/// `\p{M}`, `\p{P}`, `\p{S}` and what has no category: `[^\s\p{L}\p{N}]`.
const SYMBOLS: Set = Set::of(&[kind::OTHER, kind::MARK, kind::PUNCTUATION, kind::SYMBOL]);

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x80 * ONES;

/// The end of the run of ASCII letters from `at`, eight bytes at a time.
#[inline(always)]
fn ascii_letters(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = load(bytes, at) {
        let stop = !is_letter(word, word | 0x20 * ONES) & HIGH;
        if stop != 0 {
            return at + (stop.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(u8::is_ascii_alphabetic) {
        at += 1;
    }
    at
}

#[inline(always)]
fn load(bytes: &[u8], at: usize) -> Option<u64> {
    let chunk = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*chunk))
}

/// The high bit of each byte of `word` that is ASCII and whose counterpart in `lower` is from `a` to `z`. The other
/// bits mean nothing.
#[inline(always)]
fn is_letter(word: u64, lower: u64) -> u64 {
    let seven = lower & !HIGH;
    let from_a = seven + u64::from(0x80 - b'a') * ONES;
    let after_z = seven + u64::from(0x80 - b'{') * ONES;
    from_a & !after_z & !word
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+`, or only the last two, on the whitespace at `start`. `ends` tells the characters before
/// which the text counts as ended.
#[inline(always)]
fn whitespace<const NEWLINES: bool>(piece: Piece<'_>, start: usize, ends: impl Fn(Class) -> bool) -> usize {
    let (mut at, mut last, mut after_newline) = (start, start, start);
    while let Some((class, len)) = piece.get(at) {
        if !class.is_space() {
            break;
        }
        last = at;
        at += len;
        if NEWLINES && class.kind() == kind::NEWLINE {
            after_newline = at;
        }
    }
    if after_newline > start {
        return after_newline;
    }
    let ended = piece.get(at).is_none_or(|(class, _)| ends(class));
    // The last whitespace goes with what follows, unless it is the only one.
    if ended || last == start { at } else { last }
}

/// The end of the run of `[\r\n]` from `at`.
#[inline(always)]
fn newlines(piece: Piece<'_>, mut at: usize) -> usize {
    while matches!(piece.byte(at), Some(b'\r' | b'\n')) {
        at += 1;
    }
    at
}

/// The end of the run of one to `max` numbers whose first ends at `at`.
#[inline(always)]
fn numbers(piece: Piece<'_>, mut at: usize, max: usize) -> usize {
    for _ in 1..max {
        match piece.get(at) {
            Some((class, len)) if class.kind() == kind::NUMBER => at += len,
            _ => break,
        }
    }
    at
}

/// The end of `(?i:'s|'t|'re|'ve|'m|'ll|'d)` at `at`, where an apostrophe stands. U+017F folds to `s`.
#[inline]
fn folded_contraction(piece: Piece<'_>, at: usize) -> Option<usize> {
    let byte = |offset: usize| piece.byte(at + offset).map(|byte| byte.to_ascii_lowercase());
    match (byte(1)?, byte(2)) {
        (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(at + 3),
        (0xc5, Some(0xbf)) => Some(at + 3),
        _ => None,
    }
}

/// A symbol that begins a pre-token: the first of a run, but not after a space, which it belongs to.
#[inline(always)]
fn symbol_starts(kinds: &Kinds) -> u64 {
    kinds.symbols & !(kinds.symbols << 1) & !(kinds.spaces << 1)
}

/// The end of `'s|'t|'re|'ve|'m|'ll|'d` at `at` of the window, where an apostrophe stands that is not among the last bytes.
#[inline(always)]
fn contraction_end<B: Block>(window: &Window<'_, B>, at: u32, case: u8) -> Option<u32> {
    let byte = |offset: u32| window.byte((at + offset) as usize) | case;
    match (byte(1), byte(2)) {
        (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
        (b'r' | b'v', b'e') | (b'l', b'l') => Some(at + 3),
        _ => None,
    }
}

/// What makes an uppercase letter a lowercase one.
const ANY_CASE: u8 = 0x20;
const THIS_CASE: u8 = 0;
/// The bytes of the longest contraction.
const CONTRACTION: u32 = 3;

#[cfg(test)]
mod tests;
