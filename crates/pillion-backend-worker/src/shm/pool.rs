//! Memory for large tensors, beside the rings: one side copies a tensor in, the other has it until its last user lets go.
//!
//! A pool begins with a page of [`NUM_PLACES`] words (u32), one for each place; then comes the data. Who lends chooses a free place and
//! room in the data, copies the tensor there, sets the place's word to 1, and names place and offset in the record. Who borrows sets the word
//! to 0 when it needs the tensor no more. Where what lies is known to the lender alone: a borrower can give back too early, which is its
//! own loss, or never, which costs the lender room. A tensor for which there is no room travels in its record.
//!
//! An input can be put into the pool before it is submitted, by whoever makes it ([`Inputs`]): then nothing is copied when it is lent, and it can be lent
//! more than once, in a place of its own each time.

use std::sync::{
    Arc, Mutex, MutexGuard, TryLockError,
    atomic::{AtomicU32, Ordering},
};

use super::{region::Region, shape::PoolShape};
use crate::link::lock;
use pillion_core::{
    Error, Result,
    forward::{Place, Tensor, TensorMemory, TensorStore},
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

/// A tensor in the pool.
#[derive(Debug)]
struct Extent {
    offset: usize,
    len: usize,
    /// Where it is lent, while the words say so.
    places: Vec<u32>,
    /// Somebody on this side holds it as long as there is another.
    held: Arc<()>,
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

    /// Lends a large tensor, if there is room for it or it is in the pool already.
    pub(crate) fn put(&mut self, tensor: &Tensor) -> Option<Place> {
        if tensor.byte_len() < MIN_LEN {
            return None;
        }
        self.sweep();
        let taken = |place: &u32| self.extents.iter().any(|extent| extent.places.contains(place));
        let place = (1..=NUM_PLACES).find(|place| !taken(place))?;
        let at = match tensor.memory::<Held>().and_then(|held| self.find(&held)) {
            Some(at) => at,
            None => match tensor.as_bytes() {
                Some(bytes) => self.copy(bytes)?,
                None => self.copy(&tensor.to_vec())?,
            },
        };
        word(&self.region, place)?.store(1, Ordering::Release);
        let extent = &mut self.extents[at];
        extent.places.push(place);
        Some(Place { number: place, offset: extent.offset as u32 })
    }

    /// The record that names the place was not sent.
    pub(crate) fn take_back(&mut self, place: Place) {
        for extent in &mut self.extents {
            extent.places.retain(|number| *number != place.number);
        }
    }

    /// Forgets what nobody has any more.
    fn sweep(&mut self) {
        let region = &self.region;
        self.extents.retain_mut(|extent| {
            extent.places.retain(|place| word(region, *place).is_some_and(|w| w.load(Ordering::Acquire) != 0));
            !extent.places.is_empty() || Arc::strong_count(&extent.held) > 1
        });
    }

    /// Which extent that is; `None` if it is of another pool.
    fn find(&self, held: &Held) -> Option<usize> {
        self.extents.iter().position(|extent| Arc::ptr_eq(&extent.held, &held.token))
    }

    /// Copies bytes in, if there is room; gives the extent, which nobody has yet.
    fn copy(&mut self, bytes: &[u8]) -> Option<usize> {
        let (at, offset) = self.gap(bytes.len())?;
        if !self.region.write(HEADER_LEN + offset, bytes) {
            return None;
        }
        self.extents.insert(at, Extent { offset, len: bytes.len(), places: Vec::new(), held: Arc::new(()) });
        Some(at)
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

    /// Bytes of what is held and not lent.
    fn waiting(&self) -> usize {
        self.extents.iter().filter(|extent| extent.places.is_empty()).map(|extent| extent.len).sum()
    }
}

/// The pool of inputs, for those who make them and for the one who submits them. Its lock is held for a copy at most.
#[derive(Clone, Debug)]
pub(crate) struct Inputs(Arc<Mutex<Lender>>);

impl Inputs {
    pub(crate) fn new(lender: Lender) -> Self {
        Self(Arc::new(Mutex::new(lender)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Lender> {
        lock(&self.0)
    }
}

impl TensorStore for Inputs {
    fn hold(&self, bytes: &[u8]) -> Option<Arc<dyn TensorMemory>> {
        if bytes.len() < MIN_LEN {
            return None;
        }
        let mut lender = match self.0.try_lock() {
            Ok(lender) => lender,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another large tensor is being copied, and the caller may be the JS thread.
            Err(TryLockError::WouldBlock) => return None,
        };
        lender.sweep();
        // What waits leaves room for what is put in as it is submitted: a tensor may be too long for a record.
        if lender.waiting() + bytes.len() > lender.len / 2 {
            return None;
        }
        let at = lender.copy(bytes)?;
        let Extent { offset, ref held, .. } = lender.extents[at];
        let token = Arc::clone(held);
        drop(lender);
        Some(Arc::new(Held { lender: Arc::clone(&self.0), token, offset, len: bytes.len() }))
    }
}

/// A tensor in the pool that somebody on this side has.
#[derive(Debug)]
struct Held {
    lender: Arc<Mutex<Lender>>,
    /// Its extent has another.
    token: Arc<()>,
    offset: usize,
    len: usize,
}

impl TensorMemory for Held {
    fn len(&self) -> usize {
        self.len
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        let is_read = lock(&self.lender).region.append(HEADER_LEN + self.offset, self.len, out);
        debug_assert!(is_read, "it was written there");
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

    #[test]
    fn what_is_held_is_lent_without_a_copy_and_more_than_once() {
        let (lender, borrower) = pair();
        let inputs = Inputs::new(lender);
        assert!(inputs.hold(&vec![0; MIN_LEN - 1]).is_none(), "it travels in its record");
        let memory = inputs.hold(&vec![5; 300 << 10]).unwrap();
        assert_eq!((memory.len(), bytes(&*memory)), (300 << 10, vec![5; 300 << 10]));
        let held = Tensor::lent(Dtype::Uint8, vec![300 << 10], memory).unwrap();
        let put = |tensor: &Tensor| inputs.lock().put(tensor);
        let places = [put(&held).unwrap(), put(&held).unwrap()];
        assert_eq!((places[0].number, places[1].number), (1, 2));
        assert_eq!(places[0].offset, places[1].offset);
        let [first, second] = places.map(|place| borrower.find(place, 300 << 10).unwrap());
        // It is nobody's only when all three have let go.
        drop(first);
        assert_eq!(put(&tensor(800 << 10, 1)), None);
        drop(held);
        assert_eq!(put(&tensor(800 << 10, 1)), None);
        assert_eq!(bytes(&*second), vec![5; 300 << 10]);
        drop(second);
        assert!(put(&tensor(800 << 10, 1)).is_some());
    }

    #[test]
    fn what_waits_leaves_half_the_room() {
        let inputs = Inputs::new(pair().0);
        let first = inputs.hold(&vec![1; SHAPE / 2]).unwrap();
        assert!(inputs.hold(&vec![2; MIN_LEN]).is_none());
        assert!(inputs.lock().put(&tensor(SHAPE / 2, 3)).is_some());
        drop(first);
        assert!(inputs.hold(&vec![2; SHAPE / 2]).is_some());
    }

    #[test]
    fn what_another_pool_holds_is_copied() {
        let held = Inputs::new(pair().0).hold(&vec![6; MIN_LEN]).unwrap();
        let (mut lender, borrower) = pair();
        let place = lender.put(&Tensor::lent(Dtype::Uint8, vec![MIN_LEN as u32], held).unwrap()).unwrap();
        assert_eq!(bytes(&*borrower.find(place, MIN_LEN).unwrap()), vec![6; MIN_LEN]);
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
