//! `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|`
//! `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|`
//! `\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`

use super::cl100k::lead_starts;
use super::{
    ANY_CASE, CONTRACTION, HIGH, ONES, Piece, SYMBOLS, Scanner, contraction_end, folded_contraction, is_letter, load,
    numbers, whitespace,
};
use crate::bpe::simd::Block;
use crate::bpe::table::{Class, Set, kind};
use crate::bpe::window::{Kinds, Window, below, runs_from};

/// The pattern of GPT-4o, gpt-oss and Llama 4; with one number at a time (`NUMBERS` = 1) and no `CONTRACTIONS`, that of
/// Mistral's Tekken.
#[derive(Clone, Copy)]
pub(in crate::bpe) struct O200k<const NUMBERS: usize, const CONTRACTIONS: bool>;

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
const HEAD: Set = Set::of(&[kind::UPPER, kind::LETTER, kind::MARK]);
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
const TAIL: Set = Set::of(&[kind::LOWER, kind::LETTER, kind::MARK]);
/// What both hold.
const BOTH: Set = Set::of(&[kind::LETTER, kind::MARK]);
const WORD: Set = HEAD.and(TAIL);

impl<const NUMBERS: usize, const CONTRACTIONS: bool> Scanner for O200k<NUMBERS, CONTRACTIONS> {
    #[inline(always)]
    fn next(self, piece: Piece<'_>, start: usize) -> usize {
        let (class, len) = piece.class(start);
        if Set::LETTERS.has(class) {
            return contracted::<CONTRACTIONS>(piece, word(piece, start).unwrap_or_else(|upper| upper));
        }
        if class.kind() == kind::NUMBER {
            return numbers(piece, start + len, NUMBERS);
        }
        if let Some((next, next_len)) = piece.get(start + len) {
            if WORD.has(next) && class.kind() != kind::NEWLINE {
                return contracted::<CONTRACTIONS>(piece, prefixed(piece, class, start + len));
            }
            if piece.bytes[start] == b' ' && SYMBOLS.has(next) {
                return symbols(piece, start + len + next_len);
            }
        }
        if class.kind() == kind::MARK {
            return contracted::<CONTRACTIONS>(piece, start + len);
        }
        if class.is_space() {
            return whitespace::<true>(piece, start, |_| false);
        }
        symbols(piece, start + len)
    }

    #[inline(always)]
    fn starts<B: Block>(self, window: &Window<'_, B>) -> u64 {
        let kinds = window.kinds();
        let Kinds { letters, newlines, num_known, .. } = kinds;
        let mut starts = lead_starts::<NUMBERS>(&kinds, 0);
        let upper = window.uppercase();
        starts.bits |= upper & ((letters & !upper) << 1);
        // A slash behind newlines that belong to symbols belongs to them too.
        let absorbed = runs_from((kinds.symbols << 1) & newlines, newlines);
        starts.limit = starts.limit.min(((absorbed << 1) & window.slashes()).trailing_zeros());
        let mut open = if CONTRACTIONS { window.apostrophes() & (letters << 1) & (letters >> 1) } else { 0 };
        let mut last_end = 0;
        while open != 0 {
            let at = open.trailing_zeros();
            open &= open - 1;
            if at + CONTRACTION >= num_known {
                starts.limit = starts.limit.min(at);
                break;
            }
            // What follows a contraction does not belong to a word.
            if at != last_end
                && let Some(end) = contraction_end(window, at, ANY_CASE)
            {
                starts.bits = starts.bits & !(below(end) & !below(at)) | 1 << end;
                last_end = end;
            }
        }
        starts.sure()
    }
}

/// The end of the word at `start` that follows a prefix of `class`.
#[inline(always)]
fn prefixed(piece: Piece<'_>, class: Class, start: usize) -> usize {
    match word(piece, start) {
        Ok(end) => end,
        // The first alternative comes again without the prefix before the second is tried: a mark is a word itself.
        Err(_) if class.kind() == kind::MARK => start,
        Err(upper) => upper,
    }
}

/// The word that begins at `start`, where a letter or a mark stands: `HEAD*TAIL+`, or where that fails the end of
/// `HEAD+`.
#[inline(always)]
fn word(piece: Piece<'_>, start: usize) -> Result<usize, usize> {
    let upper = ascii_run::<true>(piece.bytes, start);
    let end = ascii_run::<false>(piece.bytes, upper);
    if piece.byte(end).is_some_and(|byte| byte >= 0x80) {
        return wide_word(piece, start);
    }
    if end > upper { Ok(end) } else { Err(upper) }
}

#[inline(never)]
fn wide_word(piece: Piece<'_>, start: usize) -> Result<usize, usize> {
    let (mut at, mut after_both) = (start, start);
    while let Some((class, len)) = piece.get(at) {
        if !HEAD.has(class) {
            break;
        }
        at += len;
        if BOTH.has(class) {
            after_both = at;
        }
    }
    let end = piece.run(at, |class| TAIL.has(class));
    if end > at {
        Ok(end)
    } else if after_both > start {
        // `TAIL+` takes back the last character that both may hold, and no more.
        Ok(after_both)
    } else {
        Err(at)
    }
}

/// The end of the run of ASCII letters of one case.
#[inline(always)]
fn ascii_run<const UPPER: bool>(bytes: &[u8], mut at: usize) -> usize {
    let case = if UPPER { 0x20 * ONES } else { 0 };
    while let Some(word) = load(bytes, at) {
        let stop = !is_letter(word, word ^ case) & HIGH;
        if stop != 0 {
            return at + (stop.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let holds = if UPPER { u8::is_ascii_uppercase } else { u8::is_ascii_lowercase };
    while bytes.get(at).is_some_and(holds) {
        at += 1;
    }
    at
}

#[inline(always)]
fn contracted<const CONTRACTIONS: bool>(piece: Piece<'_>, end: usize) -> usize {
    match piece.byte(end) {
        Some(b'\'') if CONTRACTIONS => folded_contraction(piece, end).unwrap_or(end),
        _ => end,
    }
}

#[inline(always)]
fn symbols(piece: Piece<'_>, at: usize) -> usize {
    let mut at = piece.run(at, |class| SYMBOLS.has(class));
    while matches!(piece.byte(at), Some(b'\r' | b'\n' | b'/')) {
        at += 1;
    }
    at
}
