//! Three patterns, each applied to the pieces that the one before left: `\p{N}{1,3}`, `[一-龥぀-ゟ゠-ヿ]+`, and
//! ``[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|``
//! `\s*[\r\n]+|\s+(?!\S)|\s+`

use super::cl100k::lead_starts;
use super::{Piece, Scanner, ascii_letters, newlines, numbers, whitespace};
use crate::bpe::simd::Block;
use crate::bpe::table::{Class, Set, kind};
use crate::bpe::window::{Kinds, Window};

/// The patterns of `DeepSeek` V3 and R1.
#[derive(Clone, Copy)]
pub(in crate::bpe) struct DeepSeek;

/// `[\p{L}\p{M}]`
const WORD: Set = Set::LETTERS.and(Set::MARKS);
/// `[\p{P}\p{S}]`
const SYMBOLS: Set = Set::of(&[kind::PUNCTUATION, kind::SYMBOL]);

impl Scanner for DeepSeek {
    #[inline(always)]
    fn next(self, piece: Piece<'_>, start: usize) -> usize {
        let (class, len) = piece.class(start);
        if class.kind() == kind::NUMBER {
            return numbers(piece, start + len, 3);
        }
        let inside = Inside { piece, cjk: class.is_cjk() };
        let at = start + len;
        if WORD.has(class) {
            return inside.word(at);
        }
        let next = inside.get(at);
        if SYMBOLS.has(class) {
            return match piece.byte(at) {
                Some(next) if len == 1 && next.is_ascii_alphabetic() => ascii_letters(piece.bytes, at),
                _ => inside.symbols(at),
            };
        }
        if let Some((next, next_len)) = next {
            if WORD.has(next) && class.kind() != kind::NEWLINE {
                return inside.word(at + next_len);
            }
            if SYMBOLS.has(next) && piece.bytes[start] == b' ' {
                return inside.symbols(at + next_len);
            }
        }
        if class.is_space() {
            return whitespace::<true>(piece, start, |class| inside.ends(class));
        }
        inside.unmatched(at)
    }

    #[inline(always)]
    fn starts<B: Block>(self, window: &Window<'_, B>) -> u64 {
        let kinds = window.kinds();
        let controls = window.controls();
        let num_known = kinds.num_known.min(controls.trailing_zeros());
        if num_known == 0 {
            return 0;
        }
        lead_starts::<3>(&Kinds { num_known, ..kinds }, kinds.numbers).sure()
    }
}

/// The rest of the piece as the third pattern sees it: it ends before a number, and where the characters of the second
/// pattern begin or end.
#[derive(Clone, Copy)]
struct Inside<'a> {
    piece: Piece<'a>,
    cjk: bool,
}

impl Inside<'_> {
    #[inline(always)]
    fn ends(self, class: Class) -> bool {
        class.kind() == kind::NUMBER || class.is_cjk() != self.cjk
    }

    #[inline(always)]
    fn get(self, at: usize) -> Option<(Class, usize)> {
        self.piece.get(at).filter(|&(class, _)| !self.ends(class))
    }

    #[inline(always)]
    fn word(self, mut at: usize) -> usize {
        if !self.cjk {
            at = ascii_letters(self.piece.bytes, at);
            if self.piece.byte(at).is_none_or(|byte| byte < 0x80) {
                return at;
            }
        }
        self.piece.run(at, |class| WORD.has(class) && !self.ends(class))
    }

    #[inline(always)]
    fn symbols(self, at: usize) -> usize {
        let end = self.piece.run(at, |class| SYMBOLS.has(class) && !self.ends(class));
        if self.cjk { end } else { newlines(self.piece, end) }
    }

    /// The end of what no alternative matches, where a character without a category ends at `at`: one such character
    /// after another, but not the last before a word, which is the word's first.
    #[inline]
    fn unmatched(self, mut at: usize) -> usize {
        while let Some((class, len)) = self.get(at) {
            let begins_word = self.get(at + len).is_some_and(|(next, _)| WORD.has(next));
            if class.kind() != kind::OTHER || begins_word {
                break;
            }
            at += len;
        }
        at
    }
}
