//! The step record read and written in native code, for `pillion._step`, which does the same in Python where this library is not at hand.
//!
//! Only what every step has is done here: a record that is unusual, or wrong, is left to the Python code, so that there is one place that
//! says what is wrong.

#![expect(unsafe_code, reason = "objects that PyO3 has no safe way to make under the stable ABI")]

use pillion_core::step::{HEADER_LEN, MAGIC, RecordKind, VERSION};
use pyo3::{
    exceptions::PyOverflowError,
    ffi,
    prelude::*,
    types::{PyBytes, PyMemoryView, PyTuple, PyType},
};

const NUM_SECTIONS: usize = 6;
const ENTRY_LEN: usize = 8;
const TABLE_END: usize = HEADER_LEN + NUM_SECTIONS * ENTRY_LEN;
/// Bytes of an element of each section.
const WIDTHS: [u64; NUM_SECTIONS] = [4, 64, 4, 8, 4, 16];
/// The section of new sequences: a step with some is rare and read by the Python code.
const NEW: usize = 1;
const NUM_OUTPUT_SECTIONS: u32 = 4;
const NOTHING: &[u8] = &[];
const OUTPUT_START: usize = HEADER_LEN + NUM_OUTPUT_SECTIONS as usize * ENTRY_LEN;

/// Reads steps.
#[pyclass(frozen)]
pub(crate) struct StepReader {
    /// `pillion._step.Step`, a tuple of eight.
    step: Py<PyType>,
    /// What a section without elements is.
    empty: Py<PyAny>,
    no_objects: Py<PyAny>,
    /// Reads every step, and says what is wrong with one that cannot be read.
    python: Py<PyAny>,
    cast: Py<PyAny>,
    words: Py<PyAny>,
}

#[pymethods]
impl StepReader {
    #[new]
    fn new(py: Python<'_>, step: Py<PyType>, empty: Py<PyAny>, python: Py<PyAny>) -> PyResult<Self> {
        let cast = py.get_type::<PyMemoryView>().getattr("cast")?.unbind();
        let words = "I".into_pyobject(py)?.into_any().unbind();
        let no_objects = PyTuple::empty(py).into_any().unbind();
        Ok(Self { step, empty, no_objects, python, cast, words })
    }

    /// Reads a step, checking every size.
    fn decode<'py>(&self, record: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        match self.plain(record)? {
            Some(step) => Ok(step),
            None => self.python.bind(record.py()).call1((record,)),
        }
    }
}

impl StepReader {
    /// The step, if it is one in which nothing enters and all is as it should be.
    fn plain<'py>(&self, record: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = record.py();
        let Ok(bytes) = record.cast_exact::<PyBytes>() else { return Ok(None) };
        let Some(sections) = sections(bytes.as_bytes()) else { return Ok(None) };
        let words = PyMemoryView::from(record)?;
        let words = self.cast.bind(py).call1((words, &self.words))?;
        let section = |index: usize| match sections[index] {
            (_, 0) => Ok(self.empty.clone_ref(py).into_bound(py)),
            (start, len) => slice(&words, start, start + len),
        };
        let step_id = le64(bytes.as_bytes(), 16).into_pyobject(py)?.into_any();
        let none = || self.no_objects.clone_ref(py).into_bound(py);
        let fields = [step_id, section(0)?, none(), section(2)?, section(3)?, section(4)?, section(5)?, none()];
        tuple_of(self.step.bind(py), fields).map(Some)
    }
}

/// Where each section begins and how long it is, in words.
fn sections(data: &[u8]) -> Option<[(usize, usize); NUM_SECTIONS]> {
    if data.len() < TABLE_END || !data.len().is_multiple_of(4) || cfg!(target_endian = "big") {
        return None;
    }
    let head = (le32(data, 0), le32(data, 4) & 0xffff, le32(data, 4) >> 16);
    if head != (MAGIC, u32::from(VERSION), RecordKind::Step as u32) || le32(data, 8) as usize != data.len() {
        return None;
    }
    let count = le32(data, 12) as usize;
    if !(NUM_SECTIONS..=(data.len() - HEADER_LEN) / ENTRY_LEN).contains(&count) {
        return None;
    }
    let body = (HEADER_LEN + count * ENTRY_LEN) as u64;
    let mut found = [(0, 0); NUM_SECTIONS];
    for (index, found) in found.iter_mut().enumerate() {
        let at = HEADER_LEN + index * ENTRY_LEN;
        let (start, count) = (u64::from(le32(data, at)), u64::from(le32(data, at + 4)));
        if count == 0 {
            continue;
        }
        let len = count * WIDTHS[index];
        if index == NEW || start < body || !start.is_multiple_of(4) || start + len > data.len() as u64 {
            return None;
        }
        *found = ((start / 4) as usize, (len / 4) as usize);
    }
    Some(found)
}

/// Writes an output, as `pillion._step.encode_output` does.
#[pyfunction]
#[pyo3(signature = (step_id, forward_ns, tokens = NOTHING, logprobs = NOTHING, top = NOTHING, error = ""))]
pub(crate) fn encode_output<'py>(
    py: Python<'py>,
    step_id: u64,
    forward_ns: u64,
    tokens: &[u8],
    logprobs: &[u8],
    top: &[u8],
    error: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let sections = [(tokens, 4), (logprobs, 4), (top, 12), (error.as_bytes(), 1)];
    let body: usize = sections.iter().map(|(bytes, _)| bytes.len()).sum();
    let length = (OUTPUT_START + body).next_multiple_of(4);
    let word = |n: usize| u32::try_from(n).map_err(|_| PyOverflowError::new_err("a record of 4 GiB"));
    word(length)?;
    PyBytes::new_with(py, length, |out| {
        out[..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&(RecordKind::StepOutput as u16).to_le_bytes());
        out[8..12].copy_from_slice(&word(length)?.to_le_bytes());
        out[12..16].copy_from_slice(&NUM_OUTPUT_SECTIONS.to_le_bytes());
        out[16..24].copy_from_slice(&step_id.to_le_bytes());
        out[24..32].copy_from_slice(&forward_ns.to_le_bytes());
        let (mut entry, mut at) = (HEADER_LEN, OUTPUT_START);
        for (bytes, width) in sections {
            out[entry..entry + 4].copy_from_slice(&word(at)?.to_le_bytes());
            out[entry + 4..entry + 8].copy_from_slice(&word(bytes.len() / width)?.to_le_bytes());
            out[at..at + bytes.len()].copy_from_slice(bytes);
            entry += ENTRY_LEN;
            at += bytes.len();
        }
        Ok(())
    })
}

/// `words[from:to]`.
fn slice<'py>(words: &Bound<'py, PyAny>, from: usize, to: usize) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached to the interpreter; gives a new reference, or null with an exception set. Both ends were checked against the length
    // of an object of Python's, which fits its sizes.
    unsafe {
        let made = ffi::PySequence_GetSlice(words.as_ptr(), from.cast_signed(), to.cast_signed());
        Bound::from_owned_ptr_or_err(words.py(), made)
    }
}

/// An object of a class that is derived from `tuple` and adds nothing to it, without the call of the class that would go through a function of
/// Python's.
pub(crate) fn tuple_of<'py, const N: usize>(
    class: &Bound<'py, PyType>,
    items: [Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached to the interpreter. `class` is a subclass of `tuple` (the readers are given named tuples by our own package), so that
    // so many items are what its objects hold; `PyTuple_SetItem` takes the reference that it is given, whether it succeeds or not.
    unsafe {
        let made = ffi::PyType_GenericAlloc(class.as_type_ptr(), N.cast_signed());
        let made = Bound::from_owned_ptr_or_err(class.py(), made)?;
        for (index, item) in items.into_iter().enumerate() {
            if ffi::PyTuple_SetItem(made.as_ptr(), index.cast_signed(), item.into_ptr()) != 0 {
                return Err(PyErr::fetch(class.py()));
            }
        }
        Ok(made)
    }
}

pub(crate) fn le32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

pub(crate) fn le64(b: &[u8], at: usize) -> u64 {
    u64::from(le32(b, at)) | u64::from(le32(b, at + 4)) << 32
}
