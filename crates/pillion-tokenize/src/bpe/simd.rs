//! What only processor instructions do well, with a plain form for other processors: the one file with `unsafe` code.

/// The letters of the alphabet, less one.
const LAST_LETTER: u8 = 25;

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the compiler has no safe form of these instructions")]
mod processor {
    use std::arch::x86_64::{
        __m128i, _MM_HINT_T0, _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_prefetch, _mm_set_epi64x,
        _mm_set1_epi8, _mm_sub_epi8,
    };

    use super::LAST_LETTER;

    #[inline(always)]
    fn vector(halves: [u64; 2]) -> __m128i {
        // SAFETY: SSE2 is part of the architecture's baseline.
        unsafe { _mm_set_epi64x(halves[1].cast_signed(), halves[0].cast_signed()) }
    }

    #[inline(always)]
    pub(in crate::bpe) fn high_bits(halves: [u64; 2]) -> u32 {
        // SAFETY: SSE2 is part of the architecture's baseline.
        unsafe { _mm_movemask_epi8(vector(halves)).cast_unsigned() }
    }

    #[inline(always)]
    pub(in crate::bpe) fn within(halves: [u64; 2], first: u8) -> u32 {
        // SAFETY: SSE2 is part of the architecture's baseline.
        unsafe {
            let distance = _mm_sub_epi8(vector(halves), _mm_set1_epi8(first.cast_signed()));
            let last = _mm_set1_epi8(LAST_LETTER.cast_signed());
            _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(distance, last), distance)).cast_unsigned()
        }
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
#[cfg_attr(target_arch = "x86_64", expect(dead_code, reason = "the tests need a part of it"))]
mod plain {
    use super::LAST_LETTER;

    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;

    #[inline(always)]
    pub(in crate::bpe) fn high_bits(halves: [u64; 2]) -> u32 {
        let gather = |half: u64| (((half & HIGH) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32;
        gather(halves[0]) | gather(halves[1]) << 8
    }

    #[inline(always)]
    pub(in crate::bpe) fn within(halves: [u64; 2], first: u8) -> u32 {
        high_bits(halves.map(|half| {
            let seven = half & !HIGH;
            let from_first = seven + u64::from(0x80 - first) * ONES;
            let after_last = seven + u64::from(0x80 - first - LAST_LETTER - 1) * ONES;
            from_first & !after_last & !half
        }))
    }

    #[inline(always)]
    pub(in crate::bpe) fn prefetch<T>(_slice: &[T], _at: usize) {}
}

#[cfg(not(target_arch = "x86_64"))]
use plain as processor;

/// The high bit of each of sixteen bytes, the first in the lowest bits.
#[inline(always)]
pub(super) fn high_bits(halves: [u64; 2]) -> u32 {
    processor::high_bits(halves)
}

/// A bit for each of sixteen bytes that is one of the 26 from `first`, an ASCII letter.
#[inline(always)]
pub(super) fn within(halves: [u64; 2], first: u8) -> u32 {
    processor::within(halves, first)
}

/// Begins to bring `slice[at]` into the core's own cache. It changes nothing and may do nothing.
#[inline(always)]
pub(super) fn prefetch<T>(slice: &[T], at: usize) {
    processor::prefetch(slice, at);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_forms_agree(halves: [u64; 2], upper: bool) {
            let first = if upper { b'A' } else { b'a' };
            prop_assert_eq!(high_bits(halves), plain::high_bits(halves));
            prop_assert_eq!(within(halves, first), plain::within(halves, first));
        }
    }

    #[test]
    fn a_hint_may_point_anywhere() {
        prefetch(&[1, 2, 3], 2);
        prefetch(&[1, 2, 3], usize::MAX);
        prefetch::<u64>(&[], 0);
    }
}
