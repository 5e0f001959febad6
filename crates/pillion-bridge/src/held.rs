//! The loader's buffers of inputs, as Python sees them: an address that stays good for as long as the object lives.
//!
//! The stable ABI of Python 3.10 has no buffers of one's own making, so `pillion._embedded` makes the view, by ctypes.

#![expect(unsafe_code, reason = "memory that the loader has handed over")]

use pillion_core::abi::{Bytes, Piece};
use pyo3::{prelude::*, types::PyBytes};

/// An input that lies in the loader's memory, which is the loader's again when this dies.
#[pyclass(frozen)]
pub(crate) struct HeldTensor(Piece);

// SAFETY: the table's contract lets the memory be read and released from any thread.
unsafe impl Send for HeldTensor {}
// SAFETY: as above; its fields never change.
unsafe impl Sync for HeldTensor {}

impl HeldTensor {
    /// Takes the owner over. `None` if the piece has none and is only lent.
    pub(crate) fn take(piece: Piece) -> Option<Self> {
        (!piece.owner.is_null()).then(|| Self(piece))
    }
}

#[pymethods]
impl HeldTensor {
    /// Where it begins.
    #[getter]
    fn address(&self) -> usize {
        self.0.bytes.ptr as usize
    }

    fn __len__(&self) -> usize {
        self.0.bytes.len
    }

    /// A copy, where there is no ctypes.
    fn copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let Bytes { ptr, len } = self.0.bytes;
        PyBytes::new_with(py, len, |out| {
            // SAFETY: the loader's memory has `len` bytes for as long as its owner is not released, and `out` has as many. They are copied
            // without a reference to them, since another thread may write there.
            unsafe { std::ptr::copy_nonoverlapping(ptr, out.as_mut_ptr(), len) };
            Ok(())
        })
    }
}

impl Drop for HeldTensor {
    fn drop(&mut self) {
        (self.0.release)(self.0.owner);
    }
}
