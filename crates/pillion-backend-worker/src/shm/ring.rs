//! One direction of the transport: the layout of a ring, its writing and its reading side.
//!
//! A ring begins with a page of [`NUM_ENTRIES`] entries of 64 bytes; record number `n` (from 0) is described by entry `n % NUM_ENTRIES`:
//!
//! | at | type | meaning |
//! |---|---|---|
//! | 0 | u64 | `n` |
//! | 8 | u32 | kind: 1 a record, 2 the end, after which nothing comes |
//! | 12 | u32 | length of the record in bytes |
//! | 16 | u64 | where it begins, in bytes from the start of the ring |
//!
//! all little-endian. After the page come the slots, as many as records may be under way; record `n` lies in slot `n % slots`. A
//! writer may write record `n` once it knows that the reader has done with record `n - slots`, which here it learns from the answer.

use std::os::fd::BorrowedFd;

use super::{region::Region, shape::RingShape};
use pillion_core::{Error, ErrorCode, Result};

/// Where the slots begin.
pub(crate) const HEADER_LEN: usize = 4096;
/// More than there are slots, so that the end can be said while all slots are in use.
const NUM_ENTRIES: u64 = 4;
const ENTRY_LEN: usize = 64;
/// Bytes of an entry that mean something.
const ENTRY_USED: usize = 24;
/// A slot keeps so much memory when a longer record has gone.
const KEEP: usize = 256 << 10;

const KIND_RECORD: u32 = 1;
const KIND_END: u32 = 2;

impl RingShape {
    /// For records of up to `max_record` bytes, of which `slots` may be under way.
    pub(crate) fn new(slots: usize, max_record: usize) -> Self {
        Self { slots: slots as u32, slot_bytes: max_record.max(1).next_multiple_of(4096) as u64 }
    }

    fn slot(&self, sequence: u64) -> usize {
        HEADER_LEN + (sequence % u64::from(self.slots)) as usize * self.slot_bytes as usize
    }
}

/// A ring of zeros. The other side gets its file.
pub(crate) fn create(name: &str, shape: RingShape) -> Result<Region> {
    let len = usize::try_from(shape.slot_bytes)
        .ok()
        .and_then(|bytes| bytes.checked_mul(shape.slots as usize))
        .and_then(|bytes| bytes.checked_add(HEADER_LEN))
        .ok_or_else(|| Error::invalid("max_record_bytes", "a size that can be mapped", shape.slot_bytes))?;
    Region::create(name, len)
}

fn entry(sequence: u64) -> usize {
    (sequence % NUM_ENTRIES) as usize * ENTRY_LEN
}

/// The side that writes.
#[derive(Debug)]
pub(crate) struct RingWriter {
    region: Region,
    shape: RingShape,
    next: u64,
    /// Lengths of the records in the slots.
    lens: Vec<usize>,
}

impl RingWriter {
    /// `region` is one of [`create`] with the same shape.
    pub(crate) fn new(region: Region, shape: RingShape) -> Self {
        Self { region, shape, next: 0, lens: vec![0; shape.slots as usize] }
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.region.file()
    }

    /// Writes a record. The caller knows that the slot is free, and rings afterwards.
    pub(crate) fn push(&mut self, record: &[u8]) -> Result<()> {
        if record.len() as u64 > self.shape.slot_bytes {
            return Err(Error::new(
                ErrorCode::Unsupported,
                format!(
                    "a record of {} bytes is longer than the {} that the ring takes",
                    record.len(),
                    self.shape.slot_bytes
                ),
            )
            .with_remedy("lower limits.maxBatchTokens or limits.maxRunning, or send less at once"));
        }
        let (slot, index) = (self.shape.slot(self.next), (self.next % u64::from(self.shape.slots)) as usize);
        // The record that was here has been read. A prefill may be large, and is rare.
        if self.lens[index] > KEEP && record.len() <= KEEP {
            self.region.release(slot + KEEP, self.lens[index] - KEEP);
        }
        self.lens[index] = record.len();
        if !self.region.write(slot, record) {
            return Err(Error::internal("a slot lies outside its ring"));
        }
        self.entry(KIND_RECORD, record.len(), slot)
    }

    /// Says that nothing comes after this. The caller rings afterwards.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.entry(KIND_END, 0, HEADER_LEN)
    }

    fn entry(&mut self, kind: u32, len: usize, offset: usize) -> Result<()> {
        let mut bytes = [0; ENTRY_USED];
        bytes[..8].copy_from_slice(&self.next.to_le_bytes());
        bytes[8..12].copy_from_slice(&kind.to_le_bytes());
        bytes[12..16].copy_from_slice(&(len as u32).to_le_bytes());
        bytes[16..].copy_from_slice(&(offset as u64).to_le_bytes());
        if !self.region.write(entry(self.next), &bytes) {
            return Err(Error::internal("an entry lies outside its ring"));
        }
        self.next += 1;
        Ok(())
    }
}

/// The side that reads.
#[derive(Debug)]
pub(crate) struct RingReader {
    region: Region,
    shape: RingShape,
    next: u64,
    entry: Vec<u8>,
}

impl RingReader {
    /// `region` is one of [`create`] with the same shape.
    pub(crate) fn new(region: Region, shape: RingShape) -> Self {
        Self { region, shape, next: 0, entry: Vec::with_capacity(ENTRY_USED) }
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.region.file()
    }

    /// Whether the next record's entry is as it was before anybody wrote it.
    pub(crate) fn is_untouched(&mut self) -> bool {
        if !self.region.read(entry(self.next), ENTRY_USED, &mut self.entry) {
            return true;
        }
        let (sequence, kind) = (le64(&self.entry, 0), le32(&self.entry, 8));
        self.next.checked_sub(NUM_ENTRIES).map_or(kind == 0, |before| sequence == before)
    }

    /// Copies out the next record, of which the doorbell has told. False if it is the end. Nothing in it is trusted: what is wrong is
    /// an error that says how.
    pub(crate) fn pop(&mut self, record: &mut Vec<u8>) -> Result<bool> {
        record.clear();
        if !self.region.read(entry(self.next), ENTRY_USED, &mut self.entry) {
            return Err(Error::internal("an entry lies outside its ring"));
        }
        let (sequence, offset) = (le64(&self.entry, 0), le64(&self.entry, 16));
        let (kind, len) = (le32(&self.entry, 8), le32(&self.entry, 12));
        if sequence != self.next {
            return Err(bad(format_args!("record {sequence} where record {} was expected", self.next)));
        }
        if kind == KIND_END {
            return Ok(false);
        }
        if kind != KIND_RECORD {
            return Err(bad(format_args!("a record of kind {kind}")));
        }
        let slot = self.shape.slot(self.next);
        if offset != slot as u64 {
            return Err(bad(format_args!("a record at byte {offset} instead of {slot}")));
        }
        if u64::from(len) > self.shape.slot_bytes {
            return Err(bad(format_args!("a record of {len} bytes in a slot of {}", self.shape.slot_bytes)));
        }
        if !self.region.read(slot, len as usize, record) {
            return Err(Error::internal("a slot lies outside its ring"));
        }
        // It has been copied, and the slot is not written again before the next steps are asked for.
        if record.len() > KEEP {
            self.region.release(slot + KEEP, record.len() - KEEP);
        }
        self.next += 1;
        Ok(true)
    }
}

fn bad(what: std::fmt::Arguments<'_>) -> Error {
    Error::internal(format!("the ring holds {what}"))
}

fn le32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn le64(b: &[u8], at: usize) -> u64 {
    u64::from(le32(b, at)) | u64::from(le32(b, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Mutex};

    use proptest::prelude::*;

    use super::*;

    const SHAPE: RingShape = RingShape { slots: 2, slot_bytes: 8192 };

    /// Both sides of one ring: the reader has a mapping of its own, as the other process would.
    fn pair() -> (RingWriter, RingReader) {
        let region = create("pillion-test", SHAPE).unwrap();
        let other = region.map_again();
        (RingWriter::new(region, SHAPE), RingReader::new(other, SHAPE))
    }

    #[derive(Clone, Debug)]
    enum Op {
        Push(usize, u8),
        Pop,
    }

    fn op() -> impl Strategy<Value = Op> {
        let len = prop_oneof![0..64usize, Just(8191), Just(8192), Just(8193), Just(70_000)];
        prop_oneof![(len, any::<u8>()).prop_map(|(len, fill)| Op::Push(len, fill)), Just(Op::Pop)]
    }

    proptest! {
        /// The model is a queue; the turn-taking of the two sides keeps at most two records in it.
        #[test]
        fn a_ring_is_a_queue(ops in prop::collection::vec(op(), 0..60)) {
            let (mut writer, mut reader) = pair();
            let mut model: VecDeque<Vec<u8>> = VecDeque::new();
            let mut record = vec![1];
            for op in ops {
                match op {
                    Op::Push(len, fill) if model.len() < 2 => {
                        let bytes = vec![fill; len];
                        let pushed = writer.push(&bytes);
                        if len <= 8192 {
                            pushed.unwrap();
                            model.push_back(bytes);
                        } else {
                            prop_assert_eq!(pushed.unwrap_err().code(), ErrorCode::Unsupported);
                        }
                    }
                    Op::Push(..) => {}
                    Op::Pop => match model.pop_front() {
                        Some(expected) => {
                            prop_assert!(reader.pop(&mut record).unwrap());
                            prop_assert_eq!(&record, &expected);
                        }
                        None => prop_assert!(reader.pop(&mut record).is_err() || record.is_empty()),
                    },
                }
            }
            while let Some(expected) = model.pop_front() {
                prop_assert!(reader.pop(&mut record).unwrap());
                prop_assert_eq!(&record, &expected);
            }
            writer.end().unwrap();
            prop_assert!(!reader.pop(&mut record).unwrap());
        }

        /// Whatever stands in the entry, what comes out is an error or lies inside the slot.
        #[test]
        fn a_hostile_entry_cannot_make_us_read_elsewhere(
            sequence in prop_oneof![Just(0u64), any::<u64>()],
            kind in prop_oneof![Just(KIND_RECORD), Just(KIND_END), any::<u32>()],
            len in prop_oneof![0..9000u32, any::<u32>()],
            offset in prop_oneof![Just(HEADER_LEN as u64), 0..30_000u64, any::<u64>()],
        ) {
            let (mut writer, mut reader) = pair();
            writer.push(&[9; 8192]).unwrap();
            let mut bytes = Vec::new();
            for part in [&sequence.to_le_bytes()[..], &kind.to_le_bytes(), &len.to_le_bytes(), &offset.to_le_bytes()] {
                bytes.extend_from_slice(part);
            }
            prop_assert!(writer.region.write(0, &bytes));
            let mut record = Vec::new();
            match reader.pop(&mut record) {
                Ok(true) => {
                    prop_assert_eq!((sequence, kind, offset), (0, KIND_RECORD, HEADER_LEN as u64));
                    prop_assert_eq!(record, vec![9; len as usize]);
                }
                Ok(false) => prop_assert_eq!((sequence, kind), (0, KIND_END)),
                Err(error) => prop_assert_eq!(error.code(), ErrorCode::Internal),
            }
        }
    }

    #[test]
    fn the_end_can_be_said_while_all_slots_are_full() {
        let (mut writer, mut reader) = pair();
        writer.push(b"a").unwrap();
        writer.push(b"b").unwrap();
        writer.end().unwrap();
        let mut record = Vec::new();
        assert!(reader.pop(&mut record).unwrap());
        assert_eq!(record, b"a");
        assert!(reader.pop(&mut record).unwrap());
        assert_eq!(record, b"b");
        assert!(!reader.pop(&mut record).unwrap());
    }

    #[test]
    fn a_size_that_cannot_be_mapped_is_refused() {
        for bytes in [u64::MAX, u64::MAX / 2, 1 << 60] {
            assert!(create("pillion-test", RingShape { slots: 2, slot_bytes: bytes }).is_err());
        }
    }

    /// Memory that one long record took is given back when short ones follow, on either side.
    #[test]
    fn a_long_record_leaves_no_memory_behind() {
        let shape = RingShape::new(2, 8 << 20);
        let region = create("pillion-test", shape).unwrap();
        let other = region.map_again();
        let (mut writer, mut reader) = (RingWriter::new(region, shape), RingReader::new(other, shape));
        let mut record = Vec::new();
        for _ in 0..4 {
            writer.push(&vec![1; 8 << 20]).unwrap();
            assert!(reader.pop(&mut record).unwrap());
        }
        for _ in 0..2 {
            writer.push(b"short").unwrap();
            assert!(reader.pop(&mut record).unwrap());
        }
        let blocks = rustix::fs::fstat(writer.file()).unwrap().st_blocks;
        assert!(usize::try_from(blocks * 512).unwrap() <= 2 * KEEP + 8192, "{blocks} blocks are in use");
    }

    /// The two sides in two threads, each answering the other, with nothing but the doorbells between them.
    #[test]
    fn two_threads_take_turns() {
        let (steps, answers) = (pair(), pair());
        let bells = (super::super::Doorbell::new().unwrap(), super::super::Doorbell::new().unwrap());
        let worker = Mutex::new((steps.1, answers.0));
        let (mut writer, mut reader) = (steps.0, answers.1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut ends = worker.lock().unwrap();
                let mut record = Vec::new();
                loop {
                    for _ in 0..bells.0.wait() {
                        if !ends.0.pop(&mut record).unwrap() {
                            return;
                        }
                        ends.1.push(&record).unwrap();
                        bells.1.ring();
                    }
                }
            });
            let mut record = Vec::new();
            let (mut sent, mut received) = (0u32, 0u32);
            while received < 20_000 {
                while sent - received < 2 && sent < 20_000 {
                    writer.push(&sent.to_le_bytes().repeat(1 + sent as usize % 700)).unwrap();
                    bells.0.ring();
                    sent += 1;
                }
                for _ in 0..bells.1.wait() {
                    assert!(reader.pop(&mut record).unwrap());
                    assert_eq!(record, received.to_le_bytes().repeat(1 + received as usize % 700));
                    received += 1;
                }
            }
            writer.end().unwrap();
            bells.0.ring();
        });
    }
}
