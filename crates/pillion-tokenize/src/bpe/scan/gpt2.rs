//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

use super::{Leads, Piece, SYMBOLS, Scanner, whitespace};
use crate::bpe::chunk::Chunk;
use crate::bpe::table::{Class, Set, kind};

/// The pattern of GPT-2, which `ByteLevel` itself applies. With `DIGITS`, each numeric character is cut out before, as
/// `Digits(individual_digits)` does.
#[derive(Clone, Copy)]
pub(in crate::bpe) struct Gpt2<const DIGITS: bool>;

impl<const DIGITS: bool> Scanner for Gpt2<DIGITS> {
    #[inline(always)]
    fn next(self, piece: Piece<'_>, start: usize) -> usize {
        let (class, len) = piece.class(start);
        if cut_out::<DIGITS>(class) {
            return start + len;
        }
        if let Some(end) = run_of::<DIGITS>(piece, class, start + len) {
            return match piece.bytes[start] {
                b'\'' => contraction(piece, start).unwrap_or(end),
                _ => end,
            };
        }
        if piece.bytes[start] == b' '
            && let Some((next, next_len)) = piece.get(start + 1)
            && !cut_out::<DIGITS>(next)
            && let Some(end) = run_of::<DIGITS>(piece, next, start + 1 + next_len)
        {
            return end;
        }
        whitespace::<false>(piece, start, cut_out::<DIGITS>)
    }

    #[inline(always)]
    fn fast(self, chunk: Chunk) -> usize {
        Leads::SPACE.letters(chunk)
    }
}

#[inline(always)]
fn cut_out<const DIGITS: bool>(class: Class) -> bool {
    DIGITS && class.is_numeric()
}

/// The end of the run of letters, of numbers, or of neither, whose first character is of `class` and ends at `at`; none
/// for whitespace.
#[inline(always)]
fn run_of<const DIGITS: bool>(piece: Piece<'_>, class: Class, at: usize) -> Option<usize> {
    if Set::LETTERS.has(class) {
        Some(piece.letters(at, Set::LETTERS))
    } else if SYMBOLS.has(class) {
        Some(piece.run(at, |class| SYMBOLS.has(class) && !cut_out::<DIGITS>(class)))
    } else if class.kind() == kind::NUMBER {
        Some(piece.run(at, |class| class.kind() == kind::NUMBER))
    } else {
        None
    }
}

#[inline]
fn contraction(piece: Piece<'_>, at: usize) -> Option<usize> {
    match (piece.byte(at + 1)?, piece.byte(at + 2)) {
        (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(at + 3),
        _ => None,
    }
}
