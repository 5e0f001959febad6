//! Memory of transports in which tensors lie beside their records.

use std::{any::Any, fmt::Debug, sync::Arc};

/// Memory of a transport that holds a tensor, and is the transport's again when this is dropped. It can only be copied out, since somebody
/// else may be able to write to it.
pub trait TensorMemory: Any + Debug + Send + Sync {
    /// In bytes.
    fn len(&self) -> usize;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the bytes behind what `out` holds.
    fn append_to(&self, out: &mut Vec<u8>);

    /// The bytes: the memory itself, where it is this process's alone and nobody else has it, or a copy.
    fn into_vec(self: Arc<Self>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        self.append_to(&mut bytes);
        bytes
    }
}

/// Where inputs can be put before they are submitted, so that submitting them copies nothing.
///
/// Python sees the memory itself. A model that writes to its input, which numpy refuses and torch does not, changes what the tensor holds.
pub trait TensorStore: Debug + Send + Sync {
    /// Copies `bytes` in, and waits for nobody. `None` if they are too few to be worth it, or there is no room for them at this moment: such a
    /// tensor has memory of its own.
    fn hold(&self, bytes: &[u8]) -> Option<Arc<dyn TensorMemory>>;
}

/// Where a tensor lies that is not in its record: known to the two sides of a transport that has such places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub number: u32,
    /// Where it begins there, in bytes; a multiple of 16.
    pub offset: u32,
}
