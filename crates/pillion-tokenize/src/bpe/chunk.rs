//! Sixteen bytes at a time: which of them are letters, and the key of the word that they begin with.

use super::word::{LENGTH_SHIFT, ShortKey};

/// Sixteen bytes of a text, the first in the lowest bits.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    low: u64,
    high: u64,
}

/// Bits of a [`Chunk`]'s bytes.
pub(super) const BYTES: u32 = 16;

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

#[cfg(target_arch = "x86_64")]
mod masks {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8, _mm_set_epi64x,
        _mm_sub_epi8,
    };

    use super::Chunk;

    impl Chunk {
        #[inline(always)]
        fn vector(self) -> __m128i {
            _mm_set_epi64x(self.high.cast_signed(), self.low.cast_signed())
        }

        /// A bit for each ASCII letter.
        #[inline(always)]
        pub(in crate::bpe) fn letters(self) -> u32 {
            within(_mm_or_si128(self.vector(), _mm_set1_epi8(0x20)), b'a')
        }

        /// A bit for each uppercase ASCII letter.
        #[inline(always)]
        pub(in crate::bpe) fn upper(self) -> u32 {
            within(self.vector(), b'A')
        }

        /// A bit for each byte that is not ASCII.
        #[inline(always)]
        pub(in crate::bpe) fn wide(self) -> u32 {
            _mm_movemask_epi8(self.vector()).cast_unsigned()
        }
    }

    /// A bit for each byte that is one of the 26 from `first`.
    #[inline(always)]
    fn within(vector: __m128i, first: u8) -> u32 {
        let distance = _mm_sub_epi8(vector, _mm_set1_epi8(first.cast_signed()));
        let near = _mm_cmpeq_epi8(_mm_min_epu8(distance, _mm_set1_epi8(25)), distance);
        _mm_movemask_epi8(near).cast_unsigned()
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod masks {
    use super::Chunk;

    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;

    impl Chunk {
        /// A bit for each ASCII letter.
        #[inline(always)]
        pub(in crate::bpe) fn letters(self) -> u32 {
            self.bits(|word| within(word | 0x20 * ONES, b'a') & !word)
        }

        /// A bit for each uppercase ASCII letter.
        #[inline(always)]
        pub(in crate::bpe) fn upper(self) -> u32 {
            self.bits(|word| within(word, b'A') & !word)
        }

        /// A bit for each byte that is not ASCII.
        #[inline(always)]
        pub(in crate::bpe) fn wide(self) -> u32 {
            self.bits(|word| word)
        }

        /// The high bits of what `mark` makes of each half.
        #[inline(always)]
        fn bits(self, mark: impl Fn(u64) -> u64) -> u32 {
            let gather = |word: u64| (((mark(word) & HIGH) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32;
            gather(self.low) | gather(self.high) << 8
        }
    }

    /// The high bit of each byte of which the rest is one of the 26 from `first`.
    #[inline(always)]
    fn within(word: u64, first: u8) -> u64 {
        let seven = word & !HIGH;
        (seven + u64::from(0x80 - first) * ONES) & !(seven + u64::from(0x80 - first - 26) * ONES)
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
        let bytes: [u8; 20] = std::array::from_fn(|at| 0xf0 + at as u8);
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
