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
pub(super) struct Table<T> {
    items: NonNull<T>,
    len: usize,
    memory: Memory,
}

/// Whose the memory is.
#[derive(Clone, Copy)]
enum Memory {
    Allocated(Layout),
    #[cfg(target_os = "linux")]
    Mapped {
        bytes: usize,
    },
}

// SAFETY: it owns its items alone, as a boxed slice does.
unsafe impl<T: Send> Send for Table<T> {}
// SAFETY: as for a boxed slice, a shared table gives shared items only.
unsafe impl<T: Sync> Sync for Table<T> {}

impl<T: Copy> Table<T> {
    /// `len` times `empty`.
    pub(super) fn new(empty: T, len: usize) -> Self {
        Self::from_fn(len, || empty)
    }
}

impl<T> Table<T> {
    /// One of `len` items, each made by `make`.
    pub(super) fn from_fn(len: usize, make: impl Fn() -> T) -> Self {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= LARGE && !std::mem::needs_drop::<T>()) };
        let layout = Layout::array::<T>(len.max(1)).expect("a table of more than isize::MAX bytes: this is a bug");
        let (start, memory) = take(layout);
        let items = start.cast::<T>();
        for at in 0..len {
            // SAFETY: the memory has room for `len` items.
            unsafe { items.add(at).write(make()) };
        }
        Self { items, len, memory }
    }
}

impl<T> Deref for Table<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: all `len` items were written, and live as long as the table.
        unsafe { slice::from_raw_parts(self.items.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Table<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the table is borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.items.as_ptr(), self.len) }
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        let start = self.items.as_ptr().cast::<u8>();
        match self.memory {
            // SAFETY: the memory was allocated with this layout, and the items have nothing to drop.
            Memory::Allocated(layout) => unsafe { dealloc(start, layout) },
            #[cfg(target_os = "linux")]
            // SAFETY: the table alone has this mapping, and the items have nothing to drop.
            Memory::Mapped { bytes } => drop(unsafe { rustix::mm::munmap(start.cast(), bytes) }),
        }
    }
}

/// Memory of this layout, which is not of size zero.
fn take(layout: Layout) -> (NonNull<u8>, Memory) {
    #[cfg(target_os = "linux")]
    if layout.size() >= LARGE / 2
        && let Some(mapped) = map(layout.size().next_multiple_of(LARGE))
    {
        return mapped;
    }
    // SAFETY: the layout is not of size zero.
    let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
    (start, Memory::Allocated(layout))
}

/// So many bytes, a multiple of [`LARGE`], at a multiple of it. An allocator's would do only if nobody had written to them before: pages that
/// are there already stay small.
#[cfg(target_os = "linux")]
fn map(bytes: usize) -> Option<(NonNull<u8>, Memory)> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    let room = bytes.checked_add(LARGE)?;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), room, access, MapFlags::PRIVATE) }.ok()?;
    let before = start.cast::<u8>().align_offset(LARGE);
    let after = LARGE - before;
    // SAFETY: `before` is less than `LARGE`, and what is given back lies in the mapping and outside of the bytes that are kept.
    let start = unsafe {
        let kept = start.cast::<u8>().add(before);
        if before > 0 {
            let _ = munmap(start, before);
        }
        let _ = munmap(kept.add(bytes).cast(), after);
        kept
    };
    // SAFETY: the pages are this mapping's, and the advice changes how they are backed, not what they hold. A system that has no large pages
    // refuses it, which changes nothing.
    let _ = unsafe { madvise(start.cast(), bytes, Advice::LinuxHugepage) };
    Some((NonNull::new(start)?, Memory::Mapped { bytes }))
}

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
