//! The class of every code point, pinned to the versions of Unicode that the reference uses. Knows nothing of patterns.

use std::sync::LazyLock;

use super::table_data::RANGES;

/// What kind of character a code point is: a number from 0 to 9.
pub(super) mod kind {
    pub(in super::super) const OTHER: u8 = 0;
    pub(in super::super) const UPPER: u8 = 1;
    pub(in super::super) const LOWER: u8 = 2;
    pub(in super::super) const LETTER: u8 = 3;
    pub(in super::super) const MARK: u8 = 4;
    pub(in super::super) const NUMBER: u8 = 5;
    pub(in super::super) const PUNCTUATION: u8 = 6;
    pub(in super::super) const SYMBOL: u8 = 7;
    pub(in super::super) const SPACE: u8 = 8;
    pub(in super::super) const NEWLINE: u8 = 9;
}

/// The low bits of a class hold its kind.
const KIND: u8 = 0x0f;
/// In `[一-龥぀-ゟ゠-ヿ]`.
const CJK: u8 = 0x10;
/// Numeric for the standard library of the reference's build (Unicode 17).
const NUMERIC: u8 = 0x20;
/// Normalization form C may change it or what stands before it.
const UNSTABLE: u8 = 0x40;
/// `\w`.
const WORD: u8 = 0x80;

/// The kind and the properties of one code point.
#[derive(Clone, Copy)]
pub(super) struct Class(u8);

impl Class {
    #[inline(always)]
    pub(super) fn kind(self) -> u8 {
        self.0 & KIND
    }

    #[inline(always)]
    pub(super) fn is_cjk(self) -> bool {
        self.0 & CJK != 0
    }

    #[inline(always)]
    pub(super) fn is_numeric(self) -> bool {
        self.0 & NUMERIC != 0
    }

    #[inline(always)]
    pub(super) fn is_unstable(self) -> bool {
        self.0 & UNSTABLE != 0
    }

    pub(super) fn is_word(self) -> bool {
        self.0 & WORD != 0
    }

    #[inline(always)]
    pub(super) fn is_space(self) -> bool {
        Set::SPACES.has(self)
    }
}

/// A set of kinds.
#[derive(Clone, Copy)]
pub(super) struct Set(u16);

impl Set {
    /// `\p{L}`
    pub(super) const LETTERS: Self = Self::of(&[kind::UPPER, kind::LOWER, kind::LETTER]);
    /// `\p{M}`
    pub(super) const MARKS: Self = Self::of(&[kind::MARK]);
    /// `\s`
    pub(super) const SPACES: Self = Self::of(&[kind::SPACE, kind::NEWLINE]);

    pub(super) const fn of(kinds: &[u8]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < kinds.len() {
            bits |= 1 << kinds[at];
            at += 1;
        }
        Self(bits)
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[inline(always)]
    pub(super) fn has(self, class: Class) -> bool {
        self.0 >> class.kind() & 1 != 0
    }
}

const BASIC: usize = 0x1_0000;
const BLOCK: usize = 0x100;

/// One byte for each code point of the basic plane; the others in blocks, of which equal ones are kept once.
pub(super) struct ClassTable {
    basic: Box<[u8; BASIC]>,
    blocks: Vec<[u8; BLOCK]>,
    block_of: Vec<u16>,
}

static TABLE: LazyLock<ClassTable> = LazyLock::new(ClassTable::build);

impl ClassTable {
    pub(super) fn get() -> &'static Self {
        &TABLE
    }

    fn build() -> Self {
        let mut all = vec![0_u8; char::MAX as usize + 1];
        for (at, &(first, class)) in RANGES.iter().enumerate() {
            let end = RANGES.get(at + 1).map_or(all.len(), |&(next, _)| next as usize);
            all[first as usize..end].fill(class);
        }
        let mut blocks: Vec<[u8; BLOCK]> = Vec::new();
        let block_of = all[BASIC..].as_chunks::<BLOCK>().0.iter().map(|block| {
            let known = blocks.iter().position(|other| other == block).unwrap_or_else(|| {
                blocks.push(*block);
                blocks.len() - 1
            });
            known as u16
        });
        let block_of = block_of.collect();
        let mut basic = Box::new([0; BASIC]);
        basic.copy_from_slice(&all[..BASIC]);
        Self { basic, blocks, block_of }
    }

    #[inline(always)]
    pub(super) fn of_ascii(&self, byte: u8) -> Class {
        Class(self.basic[usize::from(byte)])
    }

    /// The class of the character that begins at `at`, and its length in bytes.
    #[inline(always)]
    pub(super) fn at(&self, bytes: &[u8], at: usize) -> (Class, usize) {
        let first = bytes[at];
        if first < 0x80 { (self.of_ascii(first), 1) } else { self.wide(bytes, at) }
    }

    #[inline]
    fn wide(&self, bytes: &[u8], at: usize) -> (Class, usize) {
        let (code_point, len) = decode_wide(bytes, at);
        let class = match self.basic.get(code_point as usize) {
            Some(&class) => class,
            None => self.astral(code_point as usize),
        };
        (Class(class), len)
    }

    #[cold]
    fn astral(&self, code_point: usize) -> u8 {
        let block = self.block_of.get((code_point - BASIC) / BLOCK).copied().unwrap_or_default();
        self.blocks[usize::from(block)][code_point % BLOCK]
    }

    pub(super) fn of_char(&self, c: char) -> Class {
        let mut buffer = [0; 4];
        self.at(c.encode_utf8(&mut buffer).as_bytes(), 0).0
    }
}

/// The code point that begins at `at` with a byte of 0x80 or more, and its length. Bytes that the text lacks read as
/// zero: a `str` has them all.
#[inline(always)]
pub(super) fn decode_wide(bytes: &[u8], at: usize) -> (u32, usize) {
    let bits = |offset: usize| u32::from(bytes.get(at + offset).copied().unwrap_or_default() & 0x3f);
    let first = u32::from(bytes[at]);
    if first < 0xe0 {
        ((first & 0x1f) << 6 | bits(1), 2)
    } else if first < 0xf0 {
        ((first & 0x0f) << 12 | bits(1) << 6 | bits(2), 3)
    } else {
        ((first & 0x07) << 18 | bits(1) << 12 | bits(2) << 6 | bits(3), 4)
    }
}

#[cfg(test)]
mod tests {
    use regex_syntax::hir::{Class as RegexClass, HirKind};
    use unicode_normalization_alignments::UnicodeNormalization;

    use super::*;

    fn every_char() -> impl Iterator<Item = char> {
        (0..=u32::from(char::MAX)).filter_map(char::from_u32)
    }

    fn matches(pattern: &str) -> Vec<bool> {
        let mut found = vec![false; char::MAX as usize + 1];
        let hir = regex_syntax::parse(pattern).unwrap();
        let HirKind::Class(RegexClass::Unicode(class)) = hir.kind() else { panic!("{pattern} is not a class") };
        for range in class.iter() {
            found[range.start() as usize..=range.end() as usize].fill(true);
        }
        found
    }

    fn check(pattern: &str, holds: impl Fn(Class) -> bool) {
        let expected = matches(pattern);
        for c in every_char() {
            assert_eq!(holds(ClassTable::get().of_char(c)), expected[c as usize], "{pattern} {c:?}");
        }
    }

    #[test]
    fn every_code_point_has_the_class_of_unicode_16() {
        check(r"[\p{Lu}\p{Lt}]", |class| class.kind() == kind::UPPER);
        check(r"\p{Ll}", |class| class.kind() == kind::LOWER);
        check(r"[\p{Lm}\p{Lo}]", |class| class.kind() == kind::LETTER);
        check(r"\p{L}", |class| Set::LETTERS.has(class));
        check(r"\p{M}", |class| Set::MARKS.has(class));
        check(r"\p{N}", |class| class.kind() == kind::NUMBER);
        check(r"\p{P}", |class| class.kind() == kind::PUNCTUATION);
        check(r"\p{S}", |class| class.kind() == kind::SYMBOL);
        check(r"\s", |class| Set::SPACES.has(class));
        check(r"[\r\n]", |class| class.kind() == kind::NEWLINE);
        check(r"\w", Class::is_word);
        check("[一-龥぀-ゟ゠-ヿ]", Class::is_cjk);
        check(r"[\p{N}\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}]", Class::is_numeric);
    }

    #[test]
    fn a_stable_code_point_normalizes_to_itself_after_any_starter() {
        let before: Vec<char> = "aé\u{1100}\u{ac00}\u{3042}\u{0928}\u{09c7}ſ\u{1025}".chars().collect();
        for c in every_char().filter(|&c| !ClassTable::get().of_char(c).is_unstable()) {
            for &starter in &before {
                let composed: Vec<(char, isize)> = [starter, c].into_iter().nfc().collect();
                assert_eq!(composed, [(starter, 0), (c, 0)], "{starter:?} {c:?}");
            }
        }
    }
}
