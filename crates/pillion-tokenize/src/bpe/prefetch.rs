//! A hint to the processor, the only `unsafe` code of the engine.

/// Begins to bring `slice[at]` into the core's own cache. It changes nothing and may do nothing.
#[inline(always)]
pub(super) fn prefetch<T>(slice: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(item) = slice.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction is part of the architecture's baseline, and a hint that reads no memory: any address
        // is allowed, and this one is of an item.
        #[expect(unsafe_code, reason = "no safe form of the hint exists")]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(item).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, at);
}
