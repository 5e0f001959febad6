//! Sixteen bytes at a time: which of them are letters, and the key of the word that they begin with.

use super::simd;
use super::word::{LENGTH_SHIFT, ShortKey};

/// Sixteen bytes of a text, the first in the lowest bits.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    low: u64,
    high: u64,
}

/// The bytes of a [`Chunk`].
pub(super) const BYTES: u32 = 16;

const ONES: u64 = 0x0101_0101_0101_0101;

/// For each length, the bytes to keep.
const KEPT: [(u64, u64); BYTES as usize] = kept();

const fn kept() -> [(u64, u64); BYTES as usize] {
    let mut kept = [(0, 0); BYTES as usize];
    let mut len = 1;
    while len < BYTES as usize {
        let both = u128::MAX >> (128 - 8 * len);
        kept[len] = (both as u64, (both >> 64) as u64);
        len += 1;
    }
    kept
}

impl Chunk {
    /// The bytes from `at` on, if there are sixteen.
    #[inline(always)]
    pub(super) fn load(bytes: &[u8], at: usize) -> Option<Self> {
        let chunk = bytes.get(at..)?.first_chunk::<{ BYTES as usize }>()?;
        let both = u128::from_le_bytes(*chunk);
        Some(Self { low: both as u64, high: (both >> 64) as u64 })
    }

    #[inline(always)]
    pub(super) fn first(self) -> u8 {
        self.low as u8
    }

    /// A bit for each ASCII letter.
    #[inline(always)]
    pub(super) fn letters(self) -> u32 {
        simd::within([self.low | 0x20 * ONES, self.high | 0x20 * ONES], b'a')
    }

    /// A bit for each uppercase ASCII letter.
    #[inline(always)]
    pub(super) fn upper(self) -> u32 {
        simd::within([self.low, self.high], b'A')
    }

    /// A bit for each byte that is not ASCII.
    #[inline(always)]
    pub(super) fn wide(self) -> u32 {
        simd::high_bits([self.low, self.high])
    }

    /// The byte at `at`, below 16.
    #[inline(always)]
    pub(super) fn byte(self, at: u32) -> u8 {
        let half = if at < 8 { self.low } else { self.high };
        (half >> (at % 8 * 8)) as u8
    }

    /// The key of the first `len` bytes, 1 to 15.
    #[inline(always)]
    pub(super) fn key(self, len: usize) -> ShortKey {
        let (low, high) = KEPT[len & (BYTES as usize - 1)];
        ShortKey { low: self.low & low, high: self.high & high | (len as u64) << LENGTH_SHIFT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_told_at_every_place() {
        for place in 0..16 {
            for byte in 0..=u8::MAX {
                for filler in [0, b'a', b'Z', 0xff] {
                    let mut bytes = [filler; 16];
                    bytes[place] = byte;
                    let chunk = Chunk::load(&bytes, 0).unwrap();
                    let bits = |holds: fn(&u8) -> bool| {
                        bytes.iter().enumerate().fold(0, |bits, (at, byte)| bits | u32::from(holds(byte)) << at)
                    };
                    assert_eq!(chunk.letters(), bits(u8::is_ascii_alphabetic), "{byte} at {place}");
                    assert_eq!(chunk.upper(), bits(u8::is_ascii_uppercase), "{byte} at {place}");
                    assert_eq!(chunk.wide(), bits(|byte| !byte.is_ascii()), "{byte} at {place}");
                }
            }
        }
    }

    #[test]
    fn keys_are_those_of_the_bytes() {
        let bytes: [u8; 20] = std::array::from_fn(|at| 0xe8 + at as u8);
        assert!(Chunk::load(&bytes, 5).is_none());
        for start in 0..4 {
            for len in 1..16 {
                let chunk = Chunk::load(&bytes, start).unwrap();
                assert_eq!(chunk.key(len), ShortKey::new(&bytes, start, start + len));
                assert_eq!(chunk.first(), bytes[start]);
            }
        }
    }
}
