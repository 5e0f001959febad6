//! Descriptors that a task waits for.

#![expect(unsafe_code, reason = "tokio wants a promise that a descriptor stays the one that it was")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use tokio::io::unix::AsyncFd;

/// A descriptor that is open for as long as the value lives, and always the same.
pub(super) trait Stays: AsRawFd {}
impl Stays for OwnedFd {}
impl Stays for BorrowedFd<'_> {}

/// To be waited for within a runtime.
pub(super) fn watch<T: Stays>(fd: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the two types that `T` can be own or borrow their descriptor, and give the same number each time.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}
