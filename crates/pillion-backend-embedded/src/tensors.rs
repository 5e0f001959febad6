//! Large tensors beside the records of forwards: which of a batch's go beside, and the memory into which Python copies those of the results.
//!
//! Each is copied once on its way: an input into an object of Python's, a result into a buffer of ours. An input that was put into a [`Store`] is not
//! copied at all: Python sees it where it lies.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use pillion_core::{
    Result,
    forward::{ForwardBatch, Place, Tensor, TensorMemory, TensorStore},
};

use crate::loader;

/// Shorter ones travel in the record, where copying costs less than an object for each.
const MIN_LEN: usize = 64 << 10;
/// Buffers that are kept when their tensors have gone, and their bytes together.
const MAX_SPARE: usize = 8;
const MAX_SPARE_BYTES: usize = 32 << 20;

/// Writes the record; gives the tensors that are not in it, by their places from 1 on.
pub(crate) fn encode(batch: &ForwardBatch, record: &mut Vec<u8>) -> Result<Vec<Tensor>> {
    let mut beside = Vec::new();
    batch.encode_placed(record, |tensor| {
        // What can only be copied out would be copied twice.
        if tensor.byte_len() < MIN_LEN || (tensor.as_bytes().is_none() && !loader::is_held(tensor)) {
            return None;
        }
        beside.push(tensor.clone());
        Some(Place { number: beside.len() as u32, offset: 0 })
    })?;
    Ok(beside)
}

/// Buffers whose tensors have gone. To take memory anew for each tensor would cost as much as the copy.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    fn take(&self, len: usize) -> Vec<u8> {
        let mut spare = self.lock();
        // One that is much too long is for others.
        let fitting = spare.iter().position(|buffer| buffer.len() >= len && buffer.len() / 2 <= len);
        let found = fitting.map(|at| spare.swap_remove(at));
        drop(spare);
        found.map_or_else(
            || vec![0; len],
            |mut buffer| {
                buffer.truncate(len);
                buffer
            },
        )
    }

    pub(crate) fn give(&self, buffer: Vec<u8>) {
        let mut spare = self.lock();
        let bytes: usize = spare.iter().map(Vec::capacity).sum();
        if buffer.capacity() > 0 && spare.len() < MAX_SPARE && bytes + buffer.capacity() <= MAX_SPARE_BYTES {
            spare.push(buffer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where inputs are put that Python is to see as they are.
#[derive(Debug)]
pub(crate) struct Store(Arc<Spare>);

impl Store {
    pub(crate) fn new(spare: &Arc<Spare>) -> Self {
        Self(Arc::clone(spare))
    }
}

impl TensorStore for Store {
    fn hold(&self, bytes: &[u8]) -> Option<Arc<dyn TensorMemory>> {
        if bytes.len() < MIN_LEN {
            return None;
        }
        let mut buffer = self.0.take(bytes.len());
        buffer.copy_from_slice(bytes);
        loader::hold(buffer, &self.0)
    }
}

/// What Python was given to write results to, in one forward.
#[derive(Debug)]
pub(crate) struct Reserved {
    spare: Arc<Spare>,
    buffers: Vec<Vec<u8>>,
}

impl Reserved {
    pub(crate) fn new(spare: &Arc<Spare>) -> Self {
        Self { spare: Arc::clone(spare), buffers: Vec::new() }
    }

    /// A buffer for the next place. It stays where it is when more are asked for.
    pub(crate) fn reserve(&mut self, len: usize) -> &mut [u8] {
        let index = self.buffers.len();
        self.buffers.push(self.spare.take(len));
        &mut self.buffers[index]
    }

    /// The tensor in a place, once.
    pub(crate) fn find(&mut self, place: Place, len: usize) -> Option<Arc<dyn TensorMemory>> {
        let buffer = self.buffers.get_mut(place.number.checked_sub(1)? as usize)?;
        if place.offset != 0 || buffer.len() != len {
            return None;
        }
        Some(Arc::new(Written { bytes: mem::take(buffer), spare: Arc::clone(&self.spare) }))
    }
}

/// A tensor of a result. Its memory is used again when it has gone.
#[derive(Debug)]
struct Written {
    bytes: Vec<u8>,
    spare: Arc<Spare>,
}

impl TensorMemory for Written {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes);
    }

    fn into_vec(self: Arc<Self>) -> Vec<u8> {
        match Arc::try_unwrap(self) {
            Ok(mut written) => mem::take(&mut written.bytes),
            Err(shared) => shared.bytes.clone(),
        }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.spare.give(mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use pillion_core::forward::{Dtype, ForwardItem};

    use super::*;

    #[test]
    fn large_tensors_go_beside_the_record() {
        let tensor = |len: usize| (None, Tensor::new(Dtype::Uint8, vec![len as u32], vec![7; len]).unwrap());
        let item = |len| ForwardItem { json: "null".into(), tensors: vec![tensor(len)] };
        let items = vec![item(MIN_LEN - 1), item(MIN_LEN), item(1 << 20)];
        let mut record = Vec::new();
        let beside = encode(&ForwardBatch { forward_id: 1, items, ..ForwardBatch::default() }, &mut record).unwrap();
        assert_eq!(beside.iter().map(Tensor::byte_len).collect::<Vec<_>>(), [MIN_LEN, 1 << 20]);
        assert!(record.len() > MIN_LEN && record.len() < MIN_LEN + 1000, "{}", record.len());
    }

    #[test]
    fn a_place_is_found_once_and_its_memory_is_used_again() {
        let spare = Arc::default();
        let mut reserved = Reserved::new(&spare);
        let address = reserved.reserve(100).as_ptr();
        reserved.reserve(50).fill(3);
        for (number, offset, len) in [(0, 0, 100), (3, 0, 1), (1, 16, 84), (1, 0, 99), (2, 0, 51)] {
            assert!(reserved.find(Place { number, offset }, len).is_none(), "{number} {offset} {len}");
        }
        let first = reserved.find(Place { number: 1, offset: 0 }, 100).unwrap();
        assert!(reserved.find(Place { number: 1, offset: 0 }, 100).is_none());
        let mut out = vec![1];
        reserved.find(Place { number: 2, offset: 0 }, 50).unwrap().append_to(&mut out);
        assert_eq!(out[1..], [3; 50]);
        drop(first);
        assert_eq!(Reserved::new(&spare).reserve(100).as_ptr(), address);
        let mut reserved = Reserved::new(&spare);
        let address = reserved.reserve(80).as_ptr();
        let memory = reserved.find(Place { number: 1, offset: 0 }, 80).unwrap();
        let also = Arc::clone(&memory);
        let copy = also.into_vec();
        assert_ne!(copy.as_ptr(), address, "somebody has it still");
        let whole = memory.into_vec();
        assert_eq!(whole.as_ptr(), address);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_held_goes_beside_the_record_and_its_memory_is_used_again() {
        let spare = Arc::default();
        let store = Store::new(&spare);
        assert!(store.hold(&vec![1; MIN_LEN - 1]).is_none());
        let memory = store.hold(&vec![2; MIN_LEN]).unwrap();
        let tensor = Tensor::lent(Dtype::Uint8, vec![MIN_LEN as u32], memory).unwrap();
        let items = vec![ForwardItem { json: "null".into(), tensors: vec![(None, tensor)] }];
        let batch = ForwardBatch { forward_id: 1, items, ..ForwardBatch::default() };
        let beside = encode(&batch, &mut Vec::new()).unwrap();
        assert_eq!(beside[0].to_vec(), vec![2; MIN_LEN]);
        drop(batch);
        assert!(spare.lock().is_empty(), "somebody has it still");
        drop(beside);
        assert_eq!(spare.lock().len(), 1);
        assert_eq!(store.hold(&vec![3; MIN_LEN]).map(|memory| memory.len()), Some(MIN_LEN));
        assert_eq!(spare.lock().len(), 1);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let spare = Spare::default();
        for _ in 0..=MAX_SPARE {
            spare.give(vec![0; MAX_SPARE_BYTES / 4]);
        }
        assert_eq!(spare.lock().len(), 4);
        assert_eq!(spare.take(10).capacity(), 10, "not one that is much too long");
    }
}
