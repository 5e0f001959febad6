//! A worker's side of the rings of shared memory, for `pillion.transports._shm`, which does the same in Python where this library is not at hand.
//!
//! The layout is drawn in `crates/pillion-backend-worker/src/shm/ring.rs`. The memory is mapped, and the descriptors are owned, by the Python code.

#![expect(unsafe_code, reason = "memory that another process writes, and descriptors that Python owns")]

use std::{os::fd::BorrowedFd, ptr};

use pyo3::{
    exceptions::{PyOSError, PyValueError},
    prelude::*,
    types::PyBytes,
};
use rustix::io::Errno;

const HEADER_LEN: usize = 4096;
const NUM_ENTRIES: u64 = 4;
const ENTRY_LEN: usize = 64;
const KIND_RECORD: u32 = 1;

/// A ring as Python tells of it: its memory, its slots, the bytes of each, and its doorbell.
type Told<'py> = (Bound<'py, PyAny>, u64, usize, i32);

/// One ring: where its memory is, whose it is, and its doorbell.
struct Ring {
    base: *mut u8,
    slots: u64,
    slot_bytes: usize,
    bell: i32,
    /// Records that have passed.
    count: u64,
    /// Keeps the memory mapped.
    _owner: Py<PyAny>,
}

// SAFETY: the memory is tied to no thread, and stays mapped as long as its owner, which is held.
unsafe impl Send for Ring {}
// SAFETY: as above; what changes is changed through `&mut` alone.
unsafe impl Sync for Ring {}

impl Ring {
    /// `memory` is a ctypes array over the whole ring.
    fn new((memory, slots, slot_bytes, bell): Told<'_>) -> PyResult<Self> {
        let ctypes = memory.py().import("ctypes")?;
        let base: usize = ctypes.call_method1("addressof", (&memory,))?.extract()?;
        let len: usize = ctypes.call_method1("sizeof", (&memory,))?.extract()?;
        let wanted = usize::try_from(slots).ok().and_then(|n| n.checked_mul(slot_bytes)?.checked_add(HEADER_LEN));
        if slots == 0 || wanted != Some(len) {
            return Err(PyValueError::new_err(format!("a ring of {len} bytes for {slots} slots of {slot_bytes}")));
        }
        let base = ptr::with_exposed_provenance_mut(base);
        Ok(Self { base, slots, slot_bytes, bell, count: 0, _owner: memory.unbind() })
    }

    fn slot(&self) -> usize {
        HEADER_LEN + (self.count % self.slots) as usize * self.slot_bytes
    }

    fn entry(&self) -> *mut [u8; 24] {
        // SAFETY: the entries lie in the first page, which `new` has seen to be there.
        unsafe { self.base.add((self.count % NUM_ENTRIES) as usize * ENTRY_LEN).cast() }
    }

    fn bell(&self) -> BorrowedFd<'_> {
        // SAFETY: not -1, since Python's code took it from the system; where it has been closed since, the calls fail.
        unsafe { BorrowedFd::borrow_raw(self.bell) }
    }
}

/// Both rings.
#[pyclass]
pub(crate) struct Rings {
    steps: Ring,
    answers: Ring,
    /// Steps that were rung and not yet received.
    rung: u64,
    /// Says what is wrong with an entry, or that it is the end.
    unusual: Py<PyAny>,
}

#[pymethods]
impl Rings {
    #[new]
    fn new(steps: Told<'_>, answers: Told<'_>, unusual: Py<PyAny>) -> PyResult<Self> {
        Ok(Self { steps: Ring::new(steps)?, answers: Ring::new(answers)?, rung: 0, unusual })
    }

    /// Waits for a step and copies it out; what `unusual` gives if there is none.
    fn receive<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if self.rung == 0 {
            self.rung = wait(py, self.steps.bell())?;
        }
        self.rung -= 1;
        let ring = &mut self.steps;
        // SAFETY: inside the mapping. The other side may write at the same time, and any bytes are valid ones; they are looked at only once
        // they have been copied.
        let entry = unsafe { ptr::read_volatile(ring.entry()) };
        let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let (number, kind, length, offset) = (long(0), word(8), word(12) as usize, long(16));
        if number != ring.count || kind != KIND_RECORD || length > ring.slot_bytes || offset != ring.slot() as u64 {
            return self.unusual.bind(py).call1((ring.count, number, kind, length, offset));
        }
        // SAFETY: `length` bytes of a slot, which lies inside the mapping; they are copied before anybody looks at them, and into memory
        // that is this process's alone.
        let record = PyBytes::new_with(py, length, |out| unsafe {
            ptr::copy_nonoverlapping(ring.base.add(ring.slot()).cast_const(), out.as_mut_ptr(), length);
            Ok(())
        })?;
        ring.count += 1;
        Ok(record.into_any())
    }

    /// Writes an answer and rings. False, and nothing is done, if it is longer than a slot.
    fn send(&mut self, record: &[u8]) -> PyResult<bool> {
        let ring = &mut self.answers;
        if record.len() > ring.slot_bytes {
            return Ok(false);
        }
        let slot = ring.slot();
        let mut entry = [0; 24];
        entry[..8].copy_from_slice(&ring.count.to_le_bytes());
        entry[8..12].copy_from_slice(&KIND_RECORD.to_le_bytes());
        entry[12..16].copy_from_slice(&(record.len() as u32).to_le_bytes());
        entry[16..].copy_from_slice(&(slot as u64).to_le_bytes());
        // SAFETY: a slot and an entry, both inside the mapping and not part of `record`.
        unsafe {
            ptr::copy_nonoverlapping(record.as_ptr(), ring.base.add(slot), record.len());
            ptr::write_volatile(ring.entry(), entry);
        }
        ring.count += 1;
        // Never full: whoever waits for answers reads it, and there are no more than two.
        loop {
            match rustix::io::write(ring.bell(), &1u64.to_ne_bytes()) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(PyOSError::new_err((errno.raw_os_error(), "the doorbell"))),
                Ok(_) => return Ok(true),
            }
        }
    }
}

/// How often the bell was rung since the last time, at least once. Other threads of Python's run meanwhile, and handlers of signals.
fn wait(py: Python<'_>, bell: BorrowedFd<'_>) -> PyResult<u64> {
    let mut count = [0; 8];
    loop {
        match py.detach(|| rustix::io::read(bell, &mut count)) {
            Err(Errno::INTR) => py.check_signals()?,
            Err(errno) => return Err(PyOSError::new_err((errno.raw_os_error(), "the doorbell"))),
            Ok(_) => return Ok(u64::from_ne_bytes(count).max(1)),
        }
    }
}
