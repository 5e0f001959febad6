//! Tables in large pages. A look-up in a table of some MiB waits for the page's address before it waits for memory, and longer so in a
//! virtual machine; a few large pages are always at hand.
#![expect(unsafe_code, reason = "memory of an alignment that no safe type has, and advice on its pages")]

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
};

/// The size of a large page. Tables of less than half a page need none.
const LARGE: usize = 2 << 20;

/// A table of a fixed length; where the system has them, in large pages.
pub(super) struct Table<T: Copy> {
    items: NonNull<T>,
    len: usize,
    layout: Layout,
}

// SAFETY: it owns its items alone, as a boxed slice does.
unsafe impl<T: Copy + Send> Send for Table<T> {}
// SAFETY: as for a boxed slice, a shared table gives shared items only.
unsafe impl<T: Copy + Sync> Sync for Table<T> {}

impl<T: Copy> Table<T> {
    /// `len` times `empty`.
    pub(super) fn new(empty: T, len: usize) -> Self {
        const { assert!(size_of::<T>() > 0) };
        let layout = Layout::array::<T>(len.max(1)).expect("a table of more than isize::MAX bytes: this is a bug");
        let layout =
            if layout.size() < LARGE / 2 { layout } else { layout.align_to(LARGE).unwrap_or(layout).pad_to_align() };
        // SAFETY: the layout is not of size zero, since neither the length nor the type is.
        let Some(items) = NonNull::new(unsafe { alloc(layout) }.cast::<T>()) else { handle_alloc_error(layout) };
        if layout.align() == LARGE {
            // Before the first write: pages that are there already stay small.
            ask_for_large_pages(items.cast(), layout.size());
        }
        for at in 0..len {
            // SAFETY: the layout has room for `len` items.
            unsafe { items.add(at).write(empty) };
        }
        Self { items, len, layout }
    }
}

impl<T: Copy> Deref for Table<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: all `len` items were written, and live as long as the table.
        unsafe { slice::from_raw_parts(self.items.as_ptr(), self.len) }
    }
}

impl<T: Copy> DerefMut for Table<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the table is borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.items.as_ptr(), self.len) }
    }
}

impl<T: Copy> Drop for Table<T> {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated with this layout, and items that are `Copy` have nothing to drop.
        unsafe { dealloc(self.items.as_ptr().cast(), self.layout) };
    }
}

#[cfg(target_os = "linux")]
fn ask_for_large_pages(start: NonNull<u8>, len: usize) {
    // SAFETY: the pages belong to one allocation of the caller, and this advice changes how they are backed, not what they hold. A
    // system that has no large pages refuses it, which changes nothing.
    let _ = unsafe { rustix::mm::madvise(start.as_ptr().cast(), len, rustix::mm::Advice::LinuxHugepage) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_large_pages(_start: NonNull<u8>, _len: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_any_size_hold_what_they_shall() {
        for len in [0, 1, 511, 4_096, 262_143, 262_144, 1_000_003] {
            let mut table = Table::new([7_u32, 8], len);
            assert_eq!(table.len(), len);
            assert!(table.iter().all(|&item| item == [7, 8]));
            if let Some(last) = table.last_mut() {
                *last = [1, 2];
                assert_eq!(table[len - 1], [1, 2]);
            }
        }
    }
}
