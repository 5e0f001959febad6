//! A memory file that two processes map. Everything goes through bounds-checked copies. All of the transport's unsafe code is here.

#![expect(unsafe_code, reason = "maps memory that another process writes")]

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::AtomicU32,
};

use pillion_core::{Error, ErrorCode, Result};
use rustix::{
    fs::{FallocateFlags, MemfdFlags, SealFlags},
    mm::{MapFlags, ProtFlags},
};

/// A mapped memory file of fixed size.
#[derive(Debug)]
pub(crate) struct Region {
    file: OwnedFd,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is not tied to a thread, and `Region` is its only owner in this process.
unsafe impl Send for Region {}
// SAFETY: through a shared reference memory is only copied out or reached as an atomic.
unsafe impl Sync for Region {}

impl Region {
    /// A region of zeros. It is sealed against growing and shrinking, so neither side can make the other touch what is not there.
    pub(crate) fn create(name: &str, len: usize) -> Result<Self> {
        let failed = |what: &str, e: rustix::io::Errno| {
            Error::new(
                ErrorCode::BridgeUnavailable,
                format!("shared memory of {len} bytes cannot be made: {what}: {e}"),
            )
            .with_remedy("use the grpc or the embedded bridge")
        };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create(name, flags).map_err(|e| failed("memfd_create", e))?;
        rustix::fs::ftruncate(&file, len as u64).map_err(|e| failed("ftruncate", e))?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(|e| failed("sealing", e))?;
        Self::map(file, len).map_err(|e| failed("mmap", e))
    }

    /// `file` has `len` bytes and keeps them, by its seals.
    fn map(file: OwnedFd, len: usize) -> rustix::io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; touching it cannot fault, since the file has `len` bytes.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), len, access, MapFlags::SHARED, &file, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(rustix::io::Errno::FAULT)?;
        Ok(Self { file, base, len })
    }

    /// A second mapping of the same memory, as the other process has it.
    #[cfg(test)]
    pub(crate) fn map_again(&self) -> Self {
        Self::map(self.file.try_clone().unwrap(), self.len).unwrap()
    }

    /// To be sent to the other side.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Copies `bytes` in. False, and nothing is done, if they do not fit.
    #[must_use]
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> bool {
        let Some(target) = self.range(offset, bytes.len()) else { return false };
        // SAFETY: `range` checked that the bytes lie inside the mapping; `bytes` is memory of this process alone. That the other side
        // may read at the same time can give it mixed values, which it must expect of us as we do of it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        true
    }

    /// Copies `len` bytes out over whatever `out` held. False, and `out` is empty, if they lie outside.
    #[must_use]
    pub(crate) fn read(&self, offset: usize, len: usize, out: &mut Vec<u8>) -> bool {
        out.clear();
        self.append(offset, len, out)
    }

    /// The same, behind what `out` holds, which stays as it is if they lie outside.
    #[must_use]
    pub(crate) fn append(&self, offset: usize, len: usize, out: &mut Vec<u8>) -> bool {
        let Some(source) = self.range(offset, len) else { return false };
        out.reserve(len);
        let held = out.len();
        // SAFETY: `range` checked that the bytes lie inside the mapping; `out` has room for them and is not part of it. Any byte is a
        // valid u8, so what the other side writes meanwhile cannot make an invalid value, and nobody looks at it before it is copied.
        unsafe {
            ptr::copy_nonoverlapping(source.cast_const(), out.as_mut_ptr().add(held), len);
            out.set_len(held + len);
        }
        true
    }

    /// A word that both sides may change at any time. `None` if it lies outside or is not aligned.
    #[expect(clippy::cast_ptr_alignment, reason = "it is looked at before it is used")]
    pub(crate) fn word(&self, offset: usize) -> Option<&AtomicU32> {
        let word = self.range(offset, size_of::<AtomicU32>())?.cast::<AtomicU32>();
        // SAFETY: it lies inside the mapping, which lives as long as `self`, and is aligned. `write` needs the region for itself, so
        // this process makes no other kind of access at the same time; the other one cannot make an invalid value.
        word.is_aligned().then(|| unsafe { &*word })
    }

    /// Gives memory back to the system; it reads as zeros afterwards. The range is cut to whole pages.
    pub(crate) fn release(&self, offset: usize, len: usize) {
        let page = rustix::param::page_size();
        let start = offset.next_multiple_of(page);
        let end = offset.saturating_add(len).min(self.len) / page * page;
        if start < end {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // Where it fails the memory merely stays in use.
            let _ = rustix::fs::fallocate(&self.file, flags, start as u64, (end - start) as u64);
        }
    }

    fn range(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        // SAFETY: `offset` is at most the mapping's length.
        (end <= self.len).then(|| unsafe { self.base.as_ptr().add(offset) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are those of the mapping made in `create`, and no pointer into it is kept anywhere.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_can_be_read_or_written() {
        let mut region = Region::create("pillion-test", 4096).unwrap();
        let mut out = vec![1, 2];
        assert!(region.write(4090, b"abcdef"));
        assert!(region.read(4090, 6, &mut out));
        assert_eq!(out, b"abcdef");
        for (offset, len) in [(4090, 7), (4096, 1), (4097, 0), (usize::MAX, 1), (1, usize::MAX), (usize::MAX, 0)] {
            assert!(!region.read(offset, len, &mut out), "{offset} {len}");
            assert!(out.is_empty());
        }
        assert!(!region.write(4091, b"abcdef"));
        assert!(!region.write(usize::MAX, b"a"));
        assert!(region.read(4096, 0, &mut out));
    }

    #[test]
    fn a_word_must_lie_inside_and_be_aligned() {
        let region = Region::create("pillion-test", 4096).unwrap();
        region.word(4092).unwrap().store(7, std::sync::atomic::Ordering::Relaxed);
        let mut out = Vec::new();
        assert!(region.read(4092, 4, &mut out));
        assert_eq!(out, 7u32.to_ne_bytes());
        for offset in [1, 4093, 4096, usize::MAX - 3] {
            assert!(region.word(offset).is_none(), "{offset}");
        }
    }

    #[test]
    fn the_file_cannot_be_cut_or_grown() {
        let region = Region::create("pillion-test", 8192).unwrap();
        assert!(rustix::fs::ftruncate(region.file(), 0).is_err());
        assert!(rustix::fs::ftruncate(region.file(), 1 << 20).is_err());
    }

    #[test]
    fn released_memory_reads_as_zeros_and_what_lies_beside_it_stays() {
        let page = rustix::param::page_size();
        let mut region = Region::create("pillion-test", 4 * page).unwrap();
        assert!(region.write(0, &vec![7; 4 * page]));
        region.release(page - 1, 2 * page + 1);
        let mut out = Vec::new();
        assert!(region.read(0, 4 * page, &mut out));
        assert!(out[page..3 * page].iter().all(|&b| b == 0));
        assert!(out[..page].iter().chain(&out[3 * page..]).all(|&b| b == 7));
    }

    #[test]
    fn a_size_that_cannot_be_had_is_a_typed_error() {
        let error = Region::create("pillion-test", usize::MAX / 2).unwrap_err();
        assert_eq!(error.code(), ErrorCode::BridgeUnavailable);
        assert!(error.remedy().is_some());
    }
}
