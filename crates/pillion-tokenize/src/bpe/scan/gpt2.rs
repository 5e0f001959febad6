//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

use super::{CONTRACTION, Piece, SYMBOLS, Scanner, THIS_CASE, contraction_end, symbol_starts, whitespace};
use crate::bpe::simd::Block;
use crate::bpe::table::{Class, Set, kind};
use crate::bpe::window::{Kinds, Starts, Window};

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
    fn starts<B: Block>(self, window: &Window<'_, B>) -> u64 {
        let kinds = window.kinds();
        let Kinds { letters, numbers, spaces, num_known, .. } = kinds;
        let whitespace = kinds.blanks | kinds.newlines;
        let symbols = symbol_starts(&kinds);
        let (numbers, ends) = if DIGITS { (numbers, numbers) } else { (numbers & !((numbers | spaces) << 1), 0) };
        let letters = letters & !((letters | spaces) << 1);
        // The last whitespace goes with what follows, if it is a space.
        let last = whitespace & !((whitespace | ends) >> 1);
        let bits = letters | numbers | symbols | whitespace & !(whitespace << 1) | last;
        let mut starts = Starts { bits, limit: num_known - 1 };
        let mut open = symbols & window.apostrophes() & (kinds.letters >> 1);
        while open != 0 {
            let at = open.trailing_zeros();
            open &= open - 1;
            if at + CONTRACTION >= num_known {
                starts.limit = starts.limit.min(at + 1);
                break;
            }
            if let Some(end) = contraction_end(window, at, THIS_CASE) {
                starts.bits = starts.bits & !(2 << at) | 1 << end;
            }
        }
        starts.sure()
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
