//! The loader's memory for large tensors of results, as Python sees it: a writable view, for as long as a forward runs.
//!
//! Only `pillion._embedded` gets such a view, and gives it back before the model runs on; a model never sees one.

#![expect(unsafe_code, reason = "a view of memory that the loader lends")]

use std::{
    ffi::c_int,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use pillion_core::abi::Room;
use pyo3::{ffi, prelude::*};

/// `PyBUF_WRITE`, which the stable ABI of Python 3.10 has, but its headers not.
const WRITE: c_int = 0x200;

/// What is lent at this moment. Python keeps the function that asks for it longer.
#[derive(Clone, Default)]
pub(crate) struct LentRoom(Arc<Mutex<Option<SendRoom>>>);

struct SendRoom(Room);

// SAFETY: the loader lends the room for the time of an entry, in which it is used by the Python thread and under the lock only.
unsafe impl Send for SendRoom {}

/// Takes the room away again.
pub(crate) struct Lease<'a>(&'a LentRoom);

impl LentRoom {
    pub(crate) fn lend(&self, room: Room) -> Lease<'_> {
        *self.lock() = Some(SendRoom(room));
        Lease(self)
    }

    /// A writable view of so many bytes; `None` if there is no room for them.
    pub(crate) fn view(&self, py: Python<'_>, len: usize) -> PyResult<Option<Py<PyAny>>> {
        let Some(memory) = self.reserve(len) else { return Ok(None) };
        let Ok(size) = ffi::Py_ssize_t::try_from(len) else { return Ok(None) };
        // SAFETY: the loader gave `len` bytes that stay until its call of the entry returns, and we are attached to the interpreter. The
        // view is released before that by the one function that gets it.
        let view = unsafe { ffi::PyMemoryView_FromMemory(memory.cast(), size, WRITE) };
        // SAFETY: a new reference, or null with an exception set.
        unsafe { Bound::from_owned_ptr_or_err(py, view) }.map(|view| Some(view.unbind()))
    }

    fn reserve(&self, len: usize) -> Option<*mut u8> {
        let room = self.lock().as_ref().map(|lent| lent.0)?;
        let memory = (room.reserve)(room.ctx, len);
        (!memory.is_null()).then_some(memory)
    }

    fn lock(&self) -> MutexGuard<'_, Option<SendRoom>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}
