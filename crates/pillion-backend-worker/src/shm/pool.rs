//! Memory for large tensors, beside the rings: one side copies a tensor in, the other has it until its last user lets go.
//!
//! A pool begins with a page of [`NUM_PLACES`] words (u32), one for each place; then comes the data. Who lends chooses a free place and
//! room in the data, copies the tensor there, sets the place's word to 1, and names place and offset in the record. Who borrows sets the word
//! to 0 when it needs the tensor no more. Where what lies is known to the lender alone: a borrower can give back too early, which is its
//! own loss, or never, which costs the lender room. A tensor for which there is no room travels in its record.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use super::{region::Region, shape::PoolShape};
use pillion_core::{
    Error, Result,
    forward::{Place, Tensor, TensorMemory},
};

/// Where the data begin.
const HEADER_LEN: usize = 4096;
/// Tensors that may be lent at once.
const NUM_PLACES: u32 = 256;
/// Every tensor begins at a multiple of this, as vector code likes it.
const ALIGN: usize = 64;
/// Shorter ones travel in the record, where copying costs less than this bookkeeping.
const MIN_LEN: usize = 64 << 10;

impl PoolShape {
    /// For at most so many bytes of tensors at once. Memory is taken only as it is used.
    pub(crate) fn new(bytes: usize) -> Self {
        // Offsets are u32.
        Self { places: NUM_PLACES, bytes: bytes.min(u32::MAX as usize / 2).next_multiple_of(4096) as u64 }
    }

    fn region(self, name: &str) -> Result<Region> {
        let len = usize::try_from(self.bytes).map_err(|_| Error::internal("a pool that cannot be mapped"))?;
        Region::create(name, HEADER_LEN + len)
    }
}

/// A tensor that is lent. Its place's word says whether it still is.
#[derive(Clone, Copy, Debug)]
struct Extent {
    place: u32,
    offset: usize,
    len: usize,
}

/// The pool into which this side copies.
#[derive(Debug)]
pub(crate) struct Lender {
    region: Region,
    len: usize,
    /// By offset.
    extents: Vec<Extent>,
}

impl Lender {
    pub(crate) fn new(shape: PoolShape) -> Result<Self> {
        Ok(Self { region: shape.region("pillion-inputs")?, len: shape.bytes as usize, extents: Vec::new() })
    }

    pub(crate) fn file(&self) -> std::os::fd::BorrowedFd<'_> {
        self.region.file()
    }

    /// Copies a large tensor in, if there is room.
    pub(crate) fn put(&mut self, tensor: &Tensor) -> Option<Place> {
        let len = tensor.byte_len();
        if len < MIN_LEN {
            return None;
        }
        let region = &self.region;
        self.extents.retain(|e| word(region, e.place).is_some_and(|w| w.load(Ordering::Acquire) != 0));
        let place = (1..=NUM_PLACES).find(|place| self.extents.iter().all(|e| e.place != *place))?;
        let (at, offset) = self.gap(len)?;
        let is_written = match tensor.as_bytes() {
            Some(bytes) => self.region.write(HEADER_LEN + offset, bytes),
            None => self.region.write(HEADER_LEN + offset, &tensor.to_vec()),
        };
        if !is_written {
            return None;
        }
        word(&self.region, place)?.store(1, Ordering::Release);
        self.extents.insert(at, Extent { place, offset, len });
        Some(Place { number: place, offset: offset as u32 })
    }

    /// The record that names the place was not sent.
    pub(crate) fn take_back(&mut self, place: Place) {
        self.extents.retain(|e| e.place != place.number);
    }

    /// The first room for so many bytes: before which extent, and its offset.
    fn gap(&self, len: usize) -> Option<(usize, usize)> {
        let mut end = 0;
        for (at, extent) in self.extents.iter().enumerate() {
            if extent.offset - end >= len {
                return Some((at, end));
            }
            // Gaps begin aligned, so that what fits a gap fits it aligned.
            end = (extent.offset + extent.len).next_multiple_of(ALIGN).min(self.len);
        }
        (self.len - end >= len).then_some((self.extents.len(), end))
    }
}

/// The pool into which the other side copies.
#[derive(Debug)]
pub(crate) struct Borrower {
    region: Arc<Region>,
    len: usize,
}

impl Borrower {
    pub(crate) fn new(shape: PoolShape) -> Result<Self> {
        Ok(Self { region: Arc::new(shape.region("pillion-results")?), len: shape.bytes as usize })
    }

    pub(crate) fn file(&self) -> std::os::fd::BorrowedFd<'_> {
        self.region.file()
    }

    /// What lies at a place, whatever the other side may mean by it, if it lies inside.
    pub(crate) fn find(&self, place: Place, len: usize) -> Option<Arc<dyn TensorMemory>> {
        let offset = place.offset as usize;
        let fits = (1..=NUM_PLACES).contains(&place.number) && offset.checked_add(len)? <= self.len;
        fits.then(|| Arc::new(Borrowed { region: Arc::clone(&self.region), place: place.number, offset, len }) as _)
    }
}

/// A tensor of the other side's. It has its memory back when this is dropped.
#[derive(Debug)]
struct Borrowed {
    region: Arc<Region>,
    place: u32,
    offset: usize,
    len: usize,
}

impl TensorMemory for Borrowed {
    fn len(&self) -> usize {
        self.len
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        let is_read = self.region.append(HEADER_LEN + self.offset, self.len, out);
        debug_assert!(is_read, "`find` has checked the bounds");
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(word) = word(&self.region, self.place) {
            word.store(0, Ordering::Release);
        }
    }
}

fn word(region: &Region, place: u32) -> Option<&AtomicU32> {
    region.word(4 * (place.checked_sub(1)? as usize))
}

#[cfg(test)]
mod tests {
    use pillion_core::forward::Dtype;
    use proptest::prelude::*;

    use super::*;

    const SHAPE: usize = 1 << 20;

    fn tensor(len: usize, fill: u8) -> Tensor {
        Tensor::new(Dtype::Uint8, vec![len as u32], vec![fill; len]).unwrap()
    }

    /// A lender, and a borrower of the same memory as the other process has it.
    fn pair() -> (Lender, Borrower) {
        let lender = Lender::new(PoolShape::new(SHAPE)).unwrap();
        let borrower = Borrower { region: Arc::new(lender.region.map_again()), len: SHAPE };
        (lender, borrower)
    }

    fn bytes(memory: &dyn TensorMemory) -> Vec<u8> {
        let mut out = vec![9];
        memory.append_to(&mut out);
        out.split_off(1)
    }

    #[test]
    fn room_comes_back_when_the_last_user_lets_go() {
        let (mut lender, borrower) = pair();
        let first = lender.put(&tensor(600 << 10, 1)).unwrap();
        assert!(lender.put(&tensor(600 << 10, 2)).is_none(), "no room: it travels in its record");
        let second = lender.put(&tensor(400 << 10, 3)).unwrap();
        let held = borrower.find(first, 600 << 10).unwrap();
        let also = Arc::clone(&held);
        drop(held);
        assert!(lender.put(&tensor(600 << 10, 2)).is_none());
        assert_eq!(bytes(&*also), vec![1; 600 << 10]);
        drop(also);
        let third = lender.put(&tensor(500 << 10, 4)).unwrap();
        assert_eq!(third.offset, first.offset);
        assert_eq!(bytes(&*borrower.find(second, 400 << 10).unwrap()), vec![3; 400 << 10]);
    }

    #[test]
    fn short_tensors_travel_in_their_record() {
        assert!(pair().0.put(&tensor(MIN_LEN - 1, 1)).is_none());
        assert!(pair().0.put(&tensor(MIN_LEN, 1)).is_some());
    }

    #[test]
    fn what_was_not_sent_is_free_again() {
        let (mut lender, _) = pair();
        let place = lender.put(&tensor(SHAPE, 1)).unwrap();
        lender.take_back(place);
        assert_eq!(lender.put(&tensor(SHAPE, 2)), Some(place));
    }

    #[test]
    fn there_are_so_many_places() {
        let mut lender = Lender::new(PoolShape::new(64 << 20)).unwrap();
        let places: Vec<_> = std::iter::from_fn(|| lender.put(&tensor(MIN_LEN, 1))).collect();
        assert_eq!(places.len(), NUM_PLACES as usize);
        lender.take_back(places[100]);
        assert_eq!(lender.put(&tensor(MIN_LEN, 1)), Some(places[100]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_place_outside_is_none(number: u32, offset: u32, len: usize) {
            let (_, borrower) = pair();
            let found = borrower.find(Place { number, offset }, len);
            let fits = (1..=NUM_PLACES).contains(&number) && offset as usize <= SHAPE && len <= SHAPE - offset as usize;
            prop_assert_eq!(found.is_some(), fits);
        }

        /// Whatever is lent at one time is never changed by what is lent meanwhile.
        #[test]
        fn nothing_overlaps(ops in prop::collection::vec((MIN_LEN..300 << 10, any::<u8>(), any::<prop::sample::Index>(), any::<bool>()), 1..30)) {
            let (mut lender, borrower) = pair();
            let mut held: Vec<(u8, Arc<dyn TensorMemory>)> = Vec::new();
            for (len, fill, which, free) in ops {
                if free && !held.is_empty() {
                    held.swap_remove(which.index(held.len()));
                }
                if let Some(place) = lender.put(&tensor(len, fill)) {
                    prop_assert!((place.offset as usize).is_multiple_of(ALIGN));
                    held.push((fill, borrower.find(place, len).unwrap()));
                }
                for (fill, memory) in &held {
                    prop_assert_eq!(bytes(&**memory), vec![*fill; memory.len()]);
                }
            }
        }
    }
}
