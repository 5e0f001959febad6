//! What only processor instructions do well, with a plain form for other processors: the one file with `unsafe` code.

/// The bytes that are looked at together.
pub(super) const BYTES: usize = 64;

/// Sixty-four bytes of a text. What it tells is a bit for each, the first in the lowest bit.
pub(super) trait Block: Copy {
    fn load(bytes: &[u8; BYTES]) -> Self;

    /// With uppercase ASCII letters as lowercase ones; other bytes may become other bytes that are no letters.
    fn lowercase(self) -> Self;

    /// Which are not ASCII.
    fn wide(self) -> u64;

    /// Which are this byte.
    fn is(self, byte: u8) -> u64;

    /// Which are of this range of ASCII characters.
    fn within(self, first: u8, last: u8) -> u64;

    /// Eight numbers of 16 bits each, the lowest first, as numbers of 32 bits.
    fn widen(narrow: [u64; 2]) -> [u32; 8];
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the compiler has no safe form of these instructions")]
mod processor {
    use std::arch::asm;
    use std::arch::x86_64::{
        __m128i, __m512i, _MM_HINT_T0, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128,
        _mm_prefetch, _mm_set_epi64x, _mm_set1_epi8, _mm_setzero_si128, _mm_sub_epi8, _mm_unpackhi_epi16,
        _mm_unpacklo_epi16, _mm256_cvtepu16_epi32, _mm512_cmpeq_epi8_mask, _mm512_cmple_epu8_mask, _mm512_loadu_si512,
        _mm512_movepi8_mask, _mm512_or_si512, _mm512_set1_epi8, _mm512_sub_epi8,
    };

    use std::sync::atomic::{AtomicU8, Ordering};

    use super::{BYTES, Block, Work};

    /// What every processor of the architecture has.
    #[derive(Clone, Copy)]
    pub(in crate::bpe) struct Any([__m128i; 4]);

    impl Block for Any {
        #[inline(always)]
        fn widen(narrow: [u64; 2]) -> [u32; 8] {
            let [first, second] = narrow.map(u64::cast_signed);
            // SAFETY: SSE2 is part of the architecture's baseline; any bits are numbers.
            unsafe {
                let (narrow, zero) = (_mm_set_epi64x(second, first), _mm_setzero_si128());
                std::mem::transmute([_mm_unpacklo_epi16(narrow, zero), _mm_unpackhi_epi16(narrow, zero)])
            }
        }

        #[inline(always)]
        fn load(bytes: &[u8; BYTES]) -> Self {
            let (vectors, _) = bytes.as_chunks::<16>();
            // SAFETY: SSE2 is part of the architecture's baseline; each load is of the 16 bytes of a chunk, at any alignment.
            Self(std::array::from_fn(|at| unsafe { _mm_loadu_si128(vectors[at].as_ptr().cast()) }))
        }

        #[inline(always)]
        fn lowercase(self) -> Self {
            // SAFETY: SSE2 is part of the architecture's baseline.
            Self(self.0.map(|vector| unsafe { _mm_or_si128(vector, _mm_set1_epi8(0x20)) }))
        }

        #[inline(always)]
        fn wide(self) -> u64 {
            gather(self.0)
        }

        #[inline(always)]
        fn is(self, byte: u8) -> u64 {
            // SAFETY: SSE2 is part of the architecture's baseline.
            gather(self.0.map(|vector| unsafe { _mm_cmpeq_epi8(vector, _mm_set1_epi8(byte.cast_signed())) }))
        }

        #[inline(always)]
        fn within(self, first: u8, last: u8) -> u64 {
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

    /// With AVX-512, of which one instruction answers for all bytes. Private to this module, whose [`fastest`] uses it only where the
    /// processor has that.
    #[derive(Clone, Copy)]
    struct Newest(__m512i);

    impl Block for Newest {
        #[inline(always)]
        fn load(bytes: &[u8; BYTES]) -> Self {
            // SAFETY: the processor has AVX-512 F and BW; the load is of 64 bytes, at any alignment.
            Self(unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) })
        }

        #[inline(always)]
        fn widen(narrow: [u64; 2]) -> [u32; 8] {
            let [first, second] = narrow.map(u64::cast_signed);
            // SAFETY: the processor has AVX2; any bits are numbers.
            unsafe { std::mem::transmute(_mm256_cvtepu16_epi32(_mm_set_epi64x(second, first))) }
        }

        #[inline(always)]
        fn lowercase(self) -> Self {
            // SAFETY: the processor has AVX-512 F and BW.
            Self(unsafe { _mm512_or_si512(self.0, _mm512_set1_epi8(0x20)) })
        }

        #[inline(always)]
        fn wide(self) -> u64 {
            // SAFETY: the processor has AVX-512 F and BW.
            unsafe { _mm512_movepi8_mask(self.0) }
        }

        #[inline(always)]
        fn is(self, byte: u8) -> u64 {
            // SAFETY: the processor has AVX-512 F and BW.
            unsafe { _mm512_cmpeq_epi8_mask(self.0, _mm512_set1_epi8(byte.cast_signed())) }
        }

        #[inline(always)]
        fn within(self, first: u8, last: u8) -> u64 {
            // SAFETY: the processor has AVX-512 F and BW.
            unsafe {
                let distance = _mm512_sub_epi8(self.0, _mm512_set1_epi8(first.cast_signed()));
                _mm512_cmple_epu8_mask(distance, _mm512_set1_epi8((last - first).cast_signed()))
            }
        }
    }

    /// The forms that there are, and that nobody has looked yet.
    mod form {
        pub(super) const UNKNOWN: u8 = 0;
        pub(super) const ANY: u8 = 1;
        pub(super) const NEWER: u8 = 2;
        pub(super) const NEWEST: u8 = 3;
    }

    /// To ask for each feature anew would take longer than some of the work.
    static FORM: AtomicU8 = AtomicU8::new(form::UNKNOWN);

    /// The last form that the processor has all for. That of [`with_newer`] have those of 2013 (Intel) and 2015 (AMD) and later, that of
    /// [`with_newest`] servers of 2017 (Intel) and all of 2022 (AMD) and later.
    #[cold]
    fn find_form() -> u8 {
        let is_newer = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        let is_newest = is_newer
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        let found = match (is_newest, is_newer) {
            (true, _) => form::NEWEST,
            (false, true) => form::NEWER,
            (false, false) => form::ANY,
        };
        FORM.store(found, Ordering::Relaxed);
        found
    }

    #[inline(always)]
    pub(in crate::bpe) fn fastest(work: impl Work) {
        let form = match FORM.load(Ordering::Relaxed) {
            form::UNKNOWN => find_form(),
            known => known,
        };
        match form {
            // SAFETY: the processor has all that the function is compiled for.
            form::NEWEST => unsafe { with_newest(work) },
            // SAFETY: the processor has all that the function is compiled for.
            form::NEWER => unsafe { with_newer(work) },
            _ => work.run::<Any>(),
        }
    }

    #[inline(never)]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512vl")]
    fn with_newest(work: impl Work) {
        work.run::<Newest>();
    }

    #[inline(never)]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn with_newer(work: impl Work) {
        work.run::<Any>();
    }

    #[inline(always)]
    pub(in crate::bpe) fn prefetch<T>(slice: &[T], at: usize) {
        // SAFETY: the instruction is part of the architecture's baseline, and a hint that reads no memory: any address is allowed, also one
        // that lies outside of the slice.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(slice.as_ptr().wrapping_add(at).cast()) }
    }

    #[inline(always)]
    pub(in crate::bpe) fn prefetch_to_write<T>(slice: &[T], at: usize) {
        // The instruction has no feature of its own in `std`. All processors with AVX2 have it, or do nothing in its place.
        if is_x86_feature_detected!("avx2") {
            let place = slice.as_ptr().wrapping_add(at);
            // SAFETY: the processor knows the instruction, which is a hint like the one above and neither reads nor changes memory.
            unsafe { asm!("prefetchw [{}]", in(reg) place, options(nostack, preserves_flags, readonly)) }
        }
    }
}

#[cfg(any(test, not(target_arch = "x86_64")))]
mod plain {
    use super::{BYTES, Block};

    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;

    #[derive(Clone, Copy)]
    pub(in crate::bpe) struct Any([u64; BYTES / 8]);

    impl Block for Any {
        #[inline(always)]
        fn widen(narrow: [u64; 2]) -> [u32; 8] {
            std::array::from_fn(|at| u32::from((narrow[at / 4] >> (16 * (at % 4))) as u16))
        }

        #[inline(always)]
        fn load(bytes: &[u8; BYTES]) -> Self {
            let (words, _) = bytes.as_chunks::<8>();
            Self(std::array::from_fn(|at| u64::from_le_bytes(words[at])))
        }

        #[inline(always)]
        fn lowercase(self) -> Self {
            Self(self.0.map(|word| word | 0x20 * ONES))
        }

        #[inline(always)]
        fn wide(self) -> u64 {
            gather(self.0)
        }

        #[inline(always)]
        fn is(self, byte: u8) -> u64 {
            gather(self.0.map(|word| {
                let other = word ^ u64::from(byte) * ONES;
                !((other & !HIGH) + !HIGH | other)
            }))
        }

        #[inline(always)]
        fn within(self, first: u8, last: u8) -> u64 {
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
        work.run::<Any>();
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    pub(in crate::bpe) fn prefetch<T>(_slice: &[T], _at: usize) {}

    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    pub(in crate::bpe) fn prefetch_to_write<T>(_slice: &[T], _at: usize) {}
}

#[cfg(not(target_arch = "x86_64"))]
use plain as processor;

/// The form that works on every processor.
pub(super) use processor::Any;

/// Begins to bring `slice[at]` into the core's own cache. It changes nothing and may do nothing.
#[inline(always)]
pub(super) fn prefetch<T>(slice: &[T], at: usize) {
    processor::prefetch(slice, at);
}

/// Like [`prefetch`], and takes the place from the caches of other cores, which is needed before it is written to.
#[inline(always)]
pub(super) fn prefetch_to_write<T>(slice: &[T], at: usize) {
    processor::prefetch_to_write(slice, at);
}

/// Work of which there are more forms, compiled for newer processors.
pub(super) trait Work {
    /// Must be `#[inline(always)]`, and so must be what belongs to those forms. `B` is the form's own and must not leave it.
    fn run<B: Block>(self);
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

    /// What a form tells of bytes: which are in the range, which are each of these bytes, which are wide, which are letters.
    #[derive(Clone, PartialEq, Debug, Default)]
    struct Told {
        within: u64,
        is: [u64; 4],
        wide: u64,
        letters: u64,
    }

    struct Tell<'a> {
        bytes: &'a [u8; BYTES],
        range: (u8, u8),
        others: [u8; 4],
        told: &'a mut Told,
    }

    impl Work for Tell<'_> {
        #[inline(always)]
        fn run<B: Block>(self) {
            let block = B::load(self.bytes);
            *self.told = Told {
                within: block.within(self.range.0, self.range.1),
                is: self.others.map(|byte| block.is(byte)),
                wide: block.wide(),
                letters: block.lowercase().within(b'a', b'z'),
            };
        }
    }

    proptest! {
        #[test]
        fn all_forms_tell_the_same(bytes in prop::collection::vec(any::<u8>(), BYTES), first in 1u8..0x80, more in 0u8..0x7f) {
            let bytes: [u8; BYTES] = bytes.try_into().unwrap();
            let last = first.saturating_add(more).min(0x7f);
            let others = [first, last, first | 0x80, bytes[7]];
            let expected = Told {
                within: bits(&bytes, |byte| (first..=last).contains(&byte)),
                is: others.map(|other| bits(&bytes, |byte| byte == other)),
                wide: bits(&bytes, |byte| byte >= 0x80),
                letters: bits(&bytes, |byte| byte.is_ascii_alphabetic()),
            };
            let tell = |how: fn(Tell<'_>)| {
                let mut told = Told::default();
                how(Tell { bytes: &bytes, range: (first, last), others, told: &mut told });
                told
            };
            prop_assert_eq!(tell(|work| work.run::<Any>()), expected.clone());
            prop_assert_eq!(tell(|work| work.run::<plain::Any>()), expected.clone());
            prop_assert_eq!(tell(|work| fastest(work)), expected);
        }
    }

    struct Widen<'a>([u64; 2], &'a mut [u32; 8]);

    impl Work for Widen<'_> {
        #[inline(always)]
        fn run<B: Block>(self) {
            *self.1 = B::widen(self.0);
        }
    }

    #[test]
    fn narrow_numbers_are_widened_in_order() {
        let narrow = [0x8003_ffff_0001_0000, 0x0007_0006_0005_8004];
        let wide = [0, 1, 0xffff, 0x8003, 0x8004, 5, 6, 7];
        let mut fast = [0; 8];
        fastest(Widen(narrow, &mut fast));
        assert_eq!([fast, Any::widen(narrow), plain::Any::widen(narrow)], [wide; 3]);
    }

    #[test]
    fn a_hint_may_point_anywhere() {
        prefetch(&[1, 2, 3], 2);
        prefetch_to_write(&[1, 2, 3], 2);
        prefetch(&[1, 2, 3], usize::MAX);
        prefetch_to_write(&[1, 2, 3], usize::MAX);
        prefetch::<u64>(&[], 0);
        prefetch_to_write::<u64>(&[], 0);
    }
}
