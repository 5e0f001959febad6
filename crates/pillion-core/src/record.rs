//! What every record shares: the header, the table of sections, and their checked reading. The layout is drawn in [`crate::step`].

use crate::error::{Error, ErrorCode, Result};

/// The bytes `PLLN`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"PLLN");
/// The version that this crate reads and writes.
pub const VERSION: u16 = 1;
/// Bytes of the header.
pub const HEADER_LEN: usize = 32;

/// What a record is, as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[expect(missing_docs, reason = "the four kinds of the table in `step`")]
pub enum RecordKind {
    Step = 1,
    Forward = 2,
    StepOutput = 3,
    ForwardOutput = 4,
}

impl RecordKind {
    /// The kind that a header names; the record itself is not looked at.
    pub fn of(record: &[u8]) -> Option<Self> {
        match record.get(6..8)? {
            [1, 0] => Some(Self::Step),
            [2, 0] => Some(Self::Forward),
            [3, 0] => Some(Self::StepOutput),
            [4, 0] => Some(Self::ForwardOutput),
            _ => None,
        }
    }
}

pub(crate) struct Writer<'a> {
    pub(crate) out: &'a mut Vec<u8>,
    next_entry: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, kind: RecordKind, step_id: u64, time_ns: u64, sections: u32) -> Self {
        out.clear();
        let mut w = Self { out, next_entry: HEADER_LEN };
        w.u32(MAGIC);
        w.out.extend_from_slice(&VERSION.to_le_bytes());
        w.out.extend_from_slice(&(kind as u16).to_le_bytes());
        w.u32(0);
        w.u32(sections);
        w.out.extend_from_slice(&step_id.to_le_bytes());
        w.out.extend_from_slice(&time_ns.to_le_bytes());
        w.out.resize(HEADER_LEN + 8 * sections as usize, 0);
        w
    }

    pub(crate) fn u32(&mut self, v: u32) {
        self.out.extend_from_slice(&v.to_le_bytes());
    }

    pub(crate) fn section<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.begin(1, items.len());
        for item in items {
            write(self, item);
        }
    }

    /// Begins a section at a multiple of `align`; the caller writes `count` elements to `out`.
    pub(crate) fn begin(&mut self, align: usize, count: usize) {
        self.pad(align);
        let offset = self.out.len() as u32;
        let entry = self.next_entry;
        self.out[entry..entry + 4].copy_from_slice(&offset.to_le_bytes());
        self.out[entry + 4..entry + 8].copy_from_slice(&(count as u32).to_le_bytes());
        self.next_entry += 8;
    }

    /// A section of request ids: for each its length as u32 and its UTF-8.
    pub(crate) fn texts(&mut self, texts: &[String]) {
        self.begin(1, texts.iter().map(|text| 4 + text.len()).sum());
        for text in texts {
            self.u32(text.len() as u32);
            self.out.extend_from_slice(text.as_bytes());
        }
    }

    pub(crate) fn pad(&mut self, align: usize) {
        self.out.resize(self.out.len().next_multiple_of(align), 0);
    }

    pub(crate) fn finish(mut self) {
        self.pad(4);
        let len = self.out.len() as u32;
        self.out[8..12].copy_from_slice(&len.to_le_bytes());
    }
}

pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    pub(crate) sections: usize,
    pub(crate) step_id: u64,
    pub(crate) time_ns: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], kind: RecordKind, min_sections: usize) -> Result<Self> {
        if bytes.len() < HEADER_LEN {
            return Err(bad(format_args!("{} bytes, shorter than a header", bytes.len())));
        }
        if le32(bytes, 0) != MAGIC {
            return Err(bad(format_args!("no step record (magic {:#x})", le32(bytes, 0))));
        }
        let (version, got) = (le16(bytes, 4), le16(bytes, 6));
        if version != VERSION {
            return Err(Error::new(
                ErrorCode::VersionMismatch,
                format!("a step record of version {version}, this side speaks {VERSION}"),
            ));
        }
        if got != kind as u16 {
            return Err(bad(format_args!("kind {got} where {} was expected", kind as u16)));
        }
        if le32(bytes, 8) as usize != bytes.len() {
            return Err(bad(format_args!("{} bytes, its header says {}", bytes.len(), le32(bytes, 8))));
        }
        let sections = le32(bytes, 12) as usize;
        if sections < min_sections || sections > (bytes.len() - HEADER_LEN) / 8 {
            return Err(bad(format_args!("{sections} sections")));
        }
        Ok(Self { bytes, sections, step_id: le64(bytes, 16), time_ns: le64(bytes, 24) })
    }

    pub(crate) fn bytes(&self, index: usize) -> Result<&'a [u8]> {
        self.range(index, 1)
    }

    pub(crate) fn section<T>(&self, index: usize, size: usize, read: impl FnMut(&[u8]) -> T) -> Result<Vec<T>> {
        Ok(self.range(index, size)?.chunks_exact(size).map(read).collect())
    }

    fn range(&self, index: usize, size: usize) -> Result<&'a [u8]> {
        let entry = HEADER_LEN + 8 * index;
        let body = HEADER_LEN + 8 * self.sections;
        let (offset, count) = (le32(self.bytes, entry) as usize, le32(self.bytes, entry + 4) as usize);
        count
            .checked_mul(size)
            .and_then(|len| offset.checked_add(len))
            .filter(|_| offset >= body)
            .and_then(|end| self.bytes.get(offset..end))
            .ok_or_else(|| bad(format_args!("section {index} ({count} elements at byte {offset}) lies outside")))
    }
}

/// Reads a section of [`Writer::texts`].
pub(crate) fn read_texts(mut bytes: &[u8]) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    while !bytes.is_empty() {
        let id = bytes.split_at_checked(4).and_then(|(len, rest)| rest.split_at_checked(le32(len, 0) as usize));
        let Some((id, rest)) = id else { return Err(bad(format_args!("a request id lies outside its section"))) };
        let text = std::str::from_utf8(id).map_err(|_| bad(format_args!("a request id that is not UTF-8")))?;
        ids.push(text.to_owned());
        bytes = rest;
    }
    Ok(ids)
}

pub(crate) fn bad(what: std::fmt::Arguments<'_>) -> Error {
    Error::internal(format!("a step record cannot be read: {what}"))
}

fn le16(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

pub(crate) fn le32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

pub(crate) fn le64(b: &[u8], at: usize) -> u64 {
    u64::from(le32(b, at)) | u64::from(le32(b, at + 4)) << 32
}
