//! `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

use super::{Leads, Piece, SYMBOLS, Scanner, folded_contraction, newlines, numbers, whitespace};
use crate::bpe::chunk::Chunk;
use crate::bpe::table::{Set, kind};

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
    fn fast(self, chunk: Chunk) -> usize {
        Leads::MOST.letters(chunk)
    }
}

#[inline(always)]
fn symbols<const NUMBERS: usize, const MARKS: bool>(piece: Piece<'_>, at: usize) -> usize {
    newlines(piece, piece.run(at, |class| Cl100k::<NUMBERS, MARKS>::SYMBOLS.has(class)))
}
