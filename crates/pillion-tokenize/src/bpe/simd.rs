//! What only processor instructions do well, with a plain form for other processors: the one file with `unsafe` code.

/// The bytes that are looked at together.
pub(super) const BYTES: usize = 64;

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the compiler has no safe form of these instructions")]
mod processor {
    use std::arch::x86_64::{
        __m128i, _MM_HINT_T0, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128,
        _mm_prefetch, _mm_set1_epi8, _mm_sub_epi8,
    };

    use super::{BYTES, Work};

    #[derive(Clone, Copy)]
    pub(in crate::bpe) struct Block([__m128i; 4]);

    impl Block {
        #[inline(always)]
        pub(in crate::bpe) fn load(bytes: &[u8; BYTES]) -> Self {
            let (vectors, _) = bytes.as_chunks::<16>();
            // SAFETY: SSE2 is part of the architecture's baseline; each load is of the 16 bytes of a chunk, at any alignment.
            Self(std::array::from_fn(|at| unsafe { _mm_loadu_si128(vectors[at].as_ptr().cast()) }))
        }

        #[inline(always)]
        pub(in crate::bpe) fn lowercase(self) -> Self {
            // SAFETY: SSE2 is part of the architecture's baseline.
            Self(self.0.map(|vector| unsafe { _mm_or_si128(vector, _mm_set1_epi8(0x20)) }))
        }

        #[inline(always)]
        pub(in crate::bpe) fn wide(self) -> u64 {
            gather(self.0)
        }

        #[inline(always)]
        pub(in crate::bpe) fn is(self, byte: u8) -> u64 {
            // SAFETY: SSE2 is part of the architecture's baseline.
            gather(self.0.map(|vector| unsafe { _mm_cmpeq_epi8(vector, _mm_set1_epi8(byte.cast_signed())) }))
        }

        #[inline(always)]
        pub(in crate::bpe) fn within(self, first: u8, last: u8) -> u64 {
            // SAFETY: SSE2 is part of the architecture's baseline.
            gather(self.0.map(|vector| unsafe {
                let distance = _mm_sub_epi8(vector, _mm_set1_epi8(first.cast_signed()));
                let most = _mm_set1_epi8((last - first).cast_signed());
                _mm_cmpeq_epi8(_mm_min_epu8(distance, most), distance)
            }))
        }
    }

    /// The high bit of each byte.
    #[inline(always)]
    fn gather(vectors: [__m128i; 4]) -> u64 {
        // SAFETY: SSE2 is part of the architecture's baseline.
        let bits = vectors.map(|vector| u64::from(unsafe { _mm_movemask_epi8(vector) }.cast_unsigned()));
        bits[0] | bits[1] << 16 | bits[2] << 32 | bits[3] << 48
    }

    /// Whether the processor has what [`with_newer`] is compiled for: those of 2013 (Intel) and 2015 (AMD) and later do.
    #[inline]
    fn is_newer() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
    }

    #[inline(always)]
    pub(in crate::bpe) fn fastest(work: impl Work) {
        if is_newer() {
            // SAFETY: the processor has all that the function is compiled for.
            unsafe { with_newer(work) }
        } else {
            work.run();
        }
    }

    #[inline(never)]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn with_newer(work: impl Work) {
        work.run();
    }

    #[inline(always)]
    pub(in crate::bpe) fn prefetch<T>(slice: &[T], at: usize) {
        if let Some(item) = slice.get(at) {
            // SAFETY: the instruction is part of the architecture's baseline, and a hint that reads no memory: any
            // address is allowed, and this one is of an item.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(item).cast()) }
        }
    }
}

#[cfg(any(test, not(target_arch = "x86_64")))]
mod plain {
    use super::BYTES;

    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;

    #[derive(Clone, Copy)]
    pub(in crate::bpe) struct Block([u64; BYTES / 8]);

    impl Block {
        #[inline(always)]
        pub(in crate::bpe) fn load(bytes: &[u8; BYTES]) -> Self {
            let (words, _) = bytes.as_chunks::<8>();
            Self(std::array::from_fn(|at| u64::from_le_bytes(words[at])))
        }

        #[inline(always)]
        pub(in crate::bpe) fn lowercase(self) -> Self {
            Self(self.0.map(|word| word | 0x20 * ONES))
        }

        #[inline(always)]
        pub(in crate::bpe) fn wide(self) -> u64 {
            gather(self.0)
        }

        #[inline(always)]
        pub(in crate::bpe) fn is(self, byte: u8) -> u64 {
            gather(self.0.map(|word| {
                let other = word ^ u64::from(byte) * ONES;
                !((other & !HIGH) + !HIGH | other)
            }))
        }

        #[inline(always)]
        pub(in crate::bpe) fn within(self, first: u8, last: u8) -> u64 {
            gather(self.0.map(|word| {
                let seven = word & !HIGH;
                let from_first = seven + u64::from(0x80 - first) * ONES;
                let after_last = seven + u64::from(0x7f - last) * ONES;
                from_first & !after_last & !word
            }))
        }
    }

    /// The high bit of each byte.
    #[inline(always)]
    fn gather(words: [u64; BYTES / 8]) -> u64 {
        words
            .iter()
            .rev()
            .fold(0, |bits, word| bits << 8 | ((word & HIGH) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56)
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    pub(in crate::bpe) fn fastest(work: impl super::Work) {
        work.run();
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    pub(in crate::bpe) fn prefetch<T>(_slice: &[T], _at: usize) {}
}

#[cfg(not(target_arch = "x86_64"))]
use plain as processor;

/// Sixty-four bytes of a text. What it tells is a bit for each, the first in the lowest bit.
#[derive(Clone, Copy)]
pub(super) struct Block(processor::Block);

impl Block {
    #[inline(always)]
    pub(super) fn load(bytes: &[u8; BYTES]) -> Self {
        Self(processor::Block::load(bytes))
    }

    /// With uppercase ASCII letters as lowercase ones; other bytes may become other bytes that are no letters.
    #[inline(always)]
    pub(super) fn lowercase(self) -> Self {
        Self(self.0.lowercase())
    }

    /// Which are not ASCII.
    #[inline(always)]
    pub(super) fn wide(self) -> u64 {
        self.0.wide()
    }

    /// Which are this byte.
    #[inline(always)]
    pub(super) fn is(self, byte: u8) -> u64 {
        self.0.is(byte)
    }

    /// Which are of this range of ASCII characters.
    #[inline(always)]
    pub(super) fn within(self, first: u8, last: u8) -> u64 {
        self.0.within(first, last)
    }
}

/// Begins to bring `slice[at]` into the core's own cache. It changes nothing and may do nothing.
#[inline(always)]
pub(super) fn prefetch<T>(slice: &[T], at: usize) {
    processor::prefetch(slice, at);
}

/// Work of which there is one more form, compiled for newer processors.
pub(super) trait Work {
    /// Must be `#[inline(always)]`, and so must be what belongs to that form.
    fn run(self);
}

/// Does the work in the form for this processor.
#[inline(always)]
pub(super) fn fastest(work: impl Work) {
    processor::fastest(work);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bits(bytes: &[u8; BYTES], holds: impl Fn(u8) -> bool) -> u64 {
        bytes.iter().enumerate().fold(0, |bits, (at, &byte)| bits | u64::from(holds(byte)) << at)
    }

    proptest! {
        #[test]
        fn both_forms_tell_the_same(bytes in prop::collection::vec(any::<u8>(), BYTES), first in 1u8..0x80, more in 0u8..0x7f) {
            let bytes: [u8; BYTES] = bytes.try_into().unwrap();
            let last = first.saturating_add(more).min(0x7f);
            let (block, plain) = (Block::load(&bytes), plain::Block::load(&bytes));
            let within = bits(&bytes, |byte| (first..=last).contains(&byte));
            prop_assert_eq!((block.within(first, last), plain.within(first, last)), (within, within));
            for other in [first, last, first | 0x80, bytes[7]] {
                let is = bits(&bytes, |byte| byte == other);
                prop_assert_eq!((block.is(other), plain.is(other)), (is, is));
            }
            let wide = bits(&bytes, |byte| byte >= 0x80);
            prop_assert_eq!((block.wide(), plain.wide()), (wide, wide));
            let letters = bits(&bytes, |byte| byte.is_ascii_alphabetic());
            prop_assert_eq!(block.lowercase().within(b'a', b'z'), letters);
            prop_assert_eq!(plain.lowercase().within(b'a', b'z'), letters);
        }
    }

    #[test]
    fn a_hint_may_point_anywhere() {
        prefetch(&[1, 2, 3], 2);
        prefetch(&[1, 2, 3], usize::MAX);
        prefetch::<u64>(&[], 0);
    }
}
