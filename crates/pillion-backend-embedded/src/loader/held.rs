//! Inputs that Python sees where they lie. Nobody makes a reference to their bytes: a model may write to them.

use std::{ffi::c_void, fmt, mem::ManuallyDrop, ptr, sync::Arc};

use pillion_core::{
    abi::{Bytes, Piece},
    forward::{Tensor, TensorMemory},
};

use crate::tensors::Spare;

/// A buffer that belongs to everybody who has the `Arc`, and to every object of Python's that was made of it.
pub(crate) struct Held {
    ptr: *mut u8,
    len: usize,
    capacity: usize,
    spare: Arc<Spare>,
}

// SAFETY: the buffer is its own, and no thread has anything of its own in it.
unsafe impl Send for Held {}
// SAFETY: through a shared reference its bytes are only copied out.
unsafe impl Sync for Held {}

/// Makes the buffer one that can be handed to Python as it is. `spare` gets it back.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there is no such memory")]
pub(crate) fn hold(buffer: Vec<u8>, spare: &Arc<Spare>) -> Option<Arc<dyn TensorMemory>> {
    let mut buffer = ManuallyDrop::new(buffer);
    let (ptr, len, capacity) = (buffer.as_mut_ptr(), buffer.len(), buffer.capacity());
    Some(Arc::new(Held { ptr, len, capacity, spare: Arc::clone(spare) }))
}

/// Whether a tensor lies in such a buffer.
pub(crate) fn is_held(tensor: &Tensor) -> bool {
    tensor.memory::<Held>().is_some()
}

/// The tensor for one entry of the table: its buffer, which goes over to the bridge, or its bytes, lent.
pub(super) fn piece(tensor: &Tensor) -> Piece {
    let Some(held) = tensor.memory::<Held>() else {
        return Piece { bytes: Bytes::of(tensor.as_bytes().unwrap_or_default()), owner: ptr::null(), release };
    };
    let bytes = Bytes { ptr: held.ptr, len: held.len };
    Piece { bytes, owner: Arc::into_raw(held).cast(), release }
}

extern "C" fn release(owner: *const c_void) {
    // SAFETY: the bridge calls this once for each owner that `piece` has made of an `Arc`.
    drop(unsafe { Arc::from_raw(owner.cast::<Held>()) });
}

impl TensorMemory for Held {
    fn len(&self) -> usize {
        self.len
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.len);
        let held = out.len();
        // SAFETY: the buffer has `len` bytes, all of them written before it was held, and `out` has room for them and is not part of it. Any
        // byte is a valid u8, whatever a model writes there.
        unsafe {
            ptr::copy_nonoverlapping(self.ptr, out.as_mut_ptr().add(held), self.len);
            out.set_len(held + self.len);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: these are the parts of the `Vec` that `hold` has taken apart, and nobody has the buffer any more.
        self.spare.give(unsafe { Vec::from_raw_parts(self.ptr, self.len, self.capacity) });
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("len", &self.len).finish_non_exhaustive()
    }
}
