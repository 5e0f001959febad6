//! `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

use super::{
    ANY_CASE, CONTRACTION, Piece, SYMBOLS, Scanner, contraction_end, folded_contraction, newlines, numbers,
    symbol_starts, whitespace,
};
use crate::bpe::simd::Block;
use crate::bpe::table::{Set, kind};
use crate::bpe::window::{Kinds, Starts, Window, number_starts, runs_from, whitespace_starts};

/// The pattern of GPT-4 and Llama 3; with one number at a time (`NUMBERS` = 1) that of Qwen 2 and 3; with `MARKS`, where
/// marks count as letters, that of Qwen 3.5.
#[derive(Clone, Copy)]
pub(in crate::bpe) struct Cl100k<const NUMBERS: usize, const MARKS: bool>;

impl<const NUMBERS: usize, const MARKS: bool> Cl100k<NUMBERS, MARKS> {
    const LETTERS: Set = if MARKS { Set::LETTERS.and(Set::MARKS) } else { Set::LETTERS };
    const SYMBOLS: Set = if MARKS { Set::of(&[kind::OTHER, kind::PUNCTUATION, kind::SYMBOL]) } else { SYMBOLS };
}

impl<const NUMBERS: usize, const MARKS: bool> Scanner for Cl100k<NUMBERS, MARKS> {
    #[inline(always)]
    fn next(self, piece: Piece<'_>, start: usize) -> usize {
        let (class, len) = piece.class(start);
        if Self::LETTERS.has(class) {
            return piece.letters(start + len, Self::LETTERS);
        }
        if class.kind() == kind::NUMBER {
            return numbers(piece, start + len, NUMBERS);
        }
        if let Some((next, next_len)) = piece.get(start + len) {
            let first = piece.bytes[start];
            if Self::LETTERS.has(next) && class.kind() != kind::NEWLINE {
                if first == b'\''
                    && let Some(end) = folded_contraction(piece, start)
                {
                    return end;
                }
                return piece.letters(start + len + next_len, Self::LETTERS);
            }
            if first == b' ' && Self::SYMBOLS.has(next) {
                return symbols::<NUMBERS, MARKS>(piece, start + len + next_len);
            }
        }
        if class.is_space() {
            return whitespace::<true>(piece, start, |_| false);
        }
        symbols::<NUMBERS, MARKS>(piece, start + len)
    }

    #[inline(always)]
    fn starts<B: Block>(self, window: &Window<'_, B>) -> u64 {
        let kinds = window.kinds();
        let mut starts = lead_starts::<NUMBERS>(&kinds, 0);
        let mut open = symbol_starts(&kinds) & window.apostrophes() & (kinds.letters >> 1);
        while open != 0 {
            let at = open.trailing_zeros();
            open &= open - 1;
            if at + CONTRACTION >= kinds.num_known {
                starts.limit = starts.limit.min(at + 1);
                break;
            }
            if let Some(end) = contraction_end(window, at, ANY_CASE) {
                starts.bits |= 1 << end;
            }
        }
        starts.sure()
    }
}

/// The pattern's starts, contractions aside: `.?L+|N+| ?S+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`. Before what is in `ends` a text
/// counts as ended.
#[inline(always)]
pub(super) fn lead_starts<const NUMBERS: usize>(kinds: &Kinds, ends: u64) -> Starts {
    let absorbed = runs_from((kinds.symbols << 1) & kinds.newlines, kinds.newlines);
    let starts = whitespace_starts(kinds, absorbed, ends);
    let symbols = symbol_starts(kinds);
    // One symbol or blank goes with the letters after it.
    let letters = kinds.letters & !((kinds.letters | kinds.blanks | symbols) << 1);
    Starts { bits: starts.bits | letters | symbols | number_starts::<NUMBERS>(kinds.numbers), ..starts }
}

#[inline(always)]
fn symbols<const NUMBERS: usize, const MARKS: bool>(piece: Piece<'_>, at: usize) -> usize {
    newlines(piece, piece.run(at, |class| Cl100k::<NUMBERS, MARKS>::SYMBOLS.has(class)))
}
