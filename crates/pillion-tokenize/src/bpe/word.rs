//! The key of a short word: its bytes and its length in two numbers.

/// The longest word whose bytes fit into a key.
pub(super) const MAX_SHORT: usize = 15;

/// The bytes of a word of 1 to [`MAX_SHORT`] bytes; the low half of the last byte is the length. Equal keys mean equal
/// words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ShortKey {
    pub(super) low: u64,
    pub(super) high: u64,
}

pub(super) const LENGTH_SHIFT: u32 = 56;

/// The bytes from the first of a word on that a key may take a part of.
pub(super) const KEY_BYTES: usize = 16;

/// For each length from 0 to 63 what is kept of the bytes and what is set besides: nothing if it is too long.
const KEPT: [(u64, u64, u64); 64] = kept();

const fn kept() -> [(u64, u64, u64); 64] {
    let mut kept = [(0, 0, 0); 64];
    let mut len = 1;
    while len <= MAX_SHORT {
        let both = u128::MAX >> (128 - 8 * len);
        kept[len] = (both as u64, (both >> 64) as u64, (len as u64) << LENGTH_SHIFT);
        len += 1;
    }
    kept
}

impl ShortKey {
    /// The key of no word.
    pub(super) const NONE: Self = Self { low: 0, high: 0 };

    /// The key of the first `len` bytes, less than 64; [`Self::NONE`] if these are too many.
    #[inline(always)]
    pub(super) fn of_first(bytes: [u8; KEY_BYTES], len: usize) -> Self {
        let both = u128::from_le_bytes(bytes);
        let (low, high, length) = KEPT[len & 63];
        Self { low: both as u64 & low, high: (both >> 64) as u64 & high | length }
    }

    /// The key of `bytes[start..end]`; the range is within the bytes and of 1 to [`MAX_SHORT`].
    #[inline(always)]
    pub(super) fn new(bytes: &[u8], start: usize, end: usize) -> Self {
        let len = end - start;
        let word = match bytes.get(start..).and_then(|rest| rest.first_chunk::<16>()) {
            Some(chunk) => u128::from_le_bytes(*chunk),
            None => Self::at_the_end(&bytes[start..end]),
        };
        let kept = word & (u128::MAX >> (128 - 8 * len));
        Self { low: kept as u64, high: (kept >> 64) as u64 | (len as u64) << LENGTH_SHIFT }
    }

    #[cold]
    fn at_the_end(word: &[u8]) -> u128 {
        let mut padded = [0; 16];
        padded[..word.len()].copy_from_slice(word);
        u128::from_le_bytes(padded)
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

    pub(super) const NONE: Self = Self { start: 0, end: 0, key: ShortKey::NONE, hash: 0 };
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_differ_where_words_do() {
        let text = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0a\0\0ab\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
        let mut words = HashSet::new();
        let mut keys = HashSet::new();
        for start in 0..text.len() {
            for end in start + 1..=text.len().min(start + MAX_SHORT) {
                let key = ShortKey::new(text, start, end);
                assert_eq!(key, ShortKey::new(&text[..end], start, end), "the bytes after the word do not count");
                if let Some(first) = text[start..].first_chunk() {
                    assert_eq!(key, ShortKey::of_first(*first, end - start));
                    assert_eq!(ShortKey::of_first(*first, MAX_SHORT + end), ShortKey::NONE);
                }
                words.insert(&text[start..end]);
                keys.insert((key.low, key.high));
            }
        }
        assert_eq!(words.len(), keys.len());
    }
}
