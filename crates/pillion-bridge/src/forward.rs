//! The forward record read and written in native code, for `pillion._forward`, which does the same in Python where this library is not at hand.
//!
//! As with steps, a record that is unusual, or wrong, is left to the Python code, so that there is one place that says what is wrong.

use pillion_core::{
    forward::Dtype,
    step::{HEADER_LEN, MAGIC, RecordKind, VERSION},
};
use pyo3::{
    exceptions::PyException,
    intern,
    prelude::*,
    types::{PyBytes, PyDict, PyInt, PyList, PyString, PyTuple, PyType},
};

use crate::record::{le32, le64, tuple_of};

const NUM_SECTIONS: usize = 5;
const NUM_OUTPUT_SECTIONS: usize = 6;
const ENTRY_LEN: usize = 8;
/// Bytes of an element of each section: items, tensors, shapes, text, data.
const WIDTHS: [usize; NUM_SECTIONS] = [12, 32, 4, 1, 1];
const OUTPUT_START: usize = HEADER_LEN + NUM_OUTPUT_SECTIONS * ENTRY_LEN;
const NO_NAME: u32 = u32::MAX;
const ALIGN: usize = 16;
const MAX_DIMENSIONS: usize = 32;
/// Half of what the header's length can say.
const MAX_RECORD: usize = 0x7fff_ffff;

/// Reads forwards.
#[pyclass(frozen)]
pub(crate) struct ForwardReader {
    /// `pillion._forward.Forward`, a tuple of three, and its `Tensor`, a tuple of six.
    forward: Py<PyType>,
    tensor: Py<PyType>,
    /// Reads a JSON value at a place of a text; gives it and where it ends.
    scan: Py<PyAny>,
    /// Reads every forward, and says what is wrong with one that cannot be read.
    python: Py<PyAny>,
}

#[pymethods]
impl ForwardReader {
    #[new]
    fn new(forward: Py<PyType>, tensor: Py<PyType>, scan: Py<PyAny>, python: Py<PyAny>) -> Self {
        Self { forward, tensor, scan, python }
    }

    /// Reads a forward, checking every size and text.
    fn decode<'py>(&self, record: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        match self.plain(record)? {
            Some(forward) => Ok(forward),
            None => self.python.bind(record.py()).call1((record,)),
        }
    }
}

impl ForwardReader {
    fn plain<'py>(&self, record: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = record.py();
        let Ok(bytes) = record.cast_exact::<PyBytes>() else { return Ok(None) };
        let Some(sections) = Sections::of(bytes.as_bytes()) else { return Ok(None) };
        let items = PyList::empty(py);
        for entry in sections.items.chunks_exact(WIDTHS[0]) {
            let Some(item) = self.item(py, entry, sections.text)? else { return Ok(None) };
            items.append(item)?;
        }
        let tensors = PyList::empty(py);
        for entry in sections.tensors.chunks_exact(WIDTHS[1]) {
            let Some(tensor) = self.tensor(py, entry, &sections, items.len())? else { return Ok(None) };
            tensors.append(tensor)?;
        }
        let forward_id = le64(bytes.as_bytes(), 16).into_pyobject(py)?.into_any();
        tuple_of(self.forward.bind(py), [forward_id, items.into_any(), tensors.into_any()]).map(Some)
    }

    fn item<'py>(&self, py: Python<'py>, entry: &[u8], text: &[u8]) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(json) = (le32(entry, 8) == 0).then(|| part(text, le32(entry, 0), le32(entry, 4))).flatten() else {
            return Ok(None);
        };
        if json == "null" {
            // As it is wherever an item is a tensor.
            return Ok(Some(py.None().into_bound(py)));
        }
        let json = PyString::new(py, json);
        match self.scan.bind(py).call1((&json, 0)) {
            Ok(found) => {
                let (value, end) = found.extract::<(Bound<'py, PyAny>, usize)>()?;
                Ok((end == json.len()?).then_some(value))
            }
            // No JSON, or too deep.
            Err(error) if error.is_instance_of::<PyException>(py) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn tensor<'py>(
        &self,
        py: Python<'py>,
        entry: &[u8],
        sections: &Sections<'_>,
        num_items: usize,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let word = |index: usize| le32(entry, 4 * index);
        let (item, shape_at, dimensions, offset, place) = (word(0), word(4), word(5) as usize, word(6), word(7));
        let sizes = (shape_at as usize)
            .checked_mul(4)
            .and_then(|from| sections.shapes.get(from..from.checked_add(dimensions.checked_mul(4)?)?));
        let (Some(dtype), Some(sizes)) = (Dtype::from_code(word(3)), sizes) else { return Ok(None) };
        if item as usize >= num_items || dimensions > MAX_DIMENSIONS || !(offset as usize).is_multiple_of(ALIGN) {
            return Ok(None);
        }
        let sizes = sizes.chunks_exact(4).map(|size| le32(size, 0));
        let len = sizes.clone().try_fold(dtype.size(), |len, size| len.checked_mul(size as usize));
        let end = len.and_then(|len| len.checked_add(offset as usize));
        let name = if word(2) == NO_NAME {
            py.None().into_bound(py)
        } else {
            let Some(name) = part(sections.text, word(1), word(2)) else { return Ok(None) };
            PyString::new(py, name).into_any()
        };
        let offset = match (place, end) {
            (0, Some(end)) if end <= sections.data_len => sections.data_at + offset as usize,
            (0, _) | (_, None) => return Ok(None),
            (_, Some(_)) => offset as usize,
        };
        let fields = [
            item.into_pyobject(py)?.into_any(),
            name,
            dtype_name(py, dtype).clone().into_any(),
            PyTuple::new(py, sizes)?.into_any(),
            offset.into_pyobject(py)?.into_any(),
            place.into_pyobject(py)?.into_any(),
        ];
        tuple_of(self.tensor.bind(py), fields).map(Some)
    }
}

/// The same objects each time: numpy asks for a dtype by its name.
fn dtype_name(py: Python<'_>, dtype: Dtype) -> &Bound<'_, PyString> {
    match dtype {
        Dtype::Uint8 => intern!(py, "uint8"),
        Dtype::Int8 => intern!(py, "int8"),
        Dtype::Uint16 => intern!(py, "uint16"),
        Dtype::Int16 => intern!(py, "int16"),
        Dtype::Uint32 => intern!(py, "uint32"),
        Dtype::Int32 => intern!(py, "int32"),
        Dtype::Uint64 => intern!(py, "uint64"),
        Dtype::Int64 => intern!(py, "int64"),
        Dtype::Float32 => intern!(py, "float32"),
        Dtype::Float64 => intern!(py, "float64"),
        Dtype::Bool => intern!(py, "bool"),
    }
}

/// The parts of a forward that is as it should be as a whole.
struct Sections<'a> {
    items: &'a [u8],
    tensors: &'a [u8],
    shapes: &'a [u8],
    text: &'a [u8],
    data_at: usize,
    data_len: usize,
}

impl<'a> Sections<'a> {
    fn of(record: &'a [u8]) -> Option<Self> {
        if record.len() < HEADER_LEN + NUM_SECTIONS * ENTRY_LEN {
            return None;
        }
        let head = (le32(record, 0), le32(record, 4) & 0xffff, le32(record, 4) >> 16);
        if head != (MAGIC, u32::from(VERSION), RecordKind::Forward as u32) || le32(record, 8) as usize != record.len() {
            return None;
        }
        let count = le32(record, 12) as usize;
        if !(NUM_SECTIONS..=(record.len() - HEADER_LEN) / ENTRY_LEN).contains(&count) {
            return None;
        }
        let body = HEADER_LEN + count * ENTRY_LEN;
        let section = |index: usize| {
            let at = HEADER_LEN + index * ENTRY_LEN;
            let start = le32(record, at) as usize;
            let len = (le32(record, at + 4) as usize).checked_mul(WIDTHS[index])?;
            if start < body { None } else { record.get(start..start.checked_add(len)?).map(|bytes| (start, bytes)) }
        };
        let (data_at, data) = section(4)?;
        Some(Self {
            items: section(0)?.1,
            tensors: section(1)?.1,
            shapes: section(2)?.1,
            text: section(3)?.1,
            data_at,
            data_len: data.len(),
        })
    }
}

fn part(text: &[u8], offset: u32, len: u32) -> Option<&str> {
    let end = (offset as usize).checked_add(len as usize)?;
    std::str::from_utf8(text.get(offset as usize..end)?).ok()
}

/// Writes outputs of forwards.
#[pyclass(frozen)]
pub(crate) struct ForwardWriter {
    /// `pillion._forward.Placed`, a tuple of two.
    placed: Py<PyType>,
    /// Numbers of the dtypes by their names.
    codes: Py<PyDict>,
    /// Writes every output.
    python: Py<PyAny>,
}

#[pymethods]
impl ForwardWriter {
    #[new]
    fn new(placed: Py<PyType>, codes: Py<PyDict>, python: Py<PyAny>) -> Self {
        Self { placed, codes, python }
    }

    /// As `pillion._forward.python_encode_forward_output` does.
    #[pyo3(signature = (forward_id, forward_ns, results = None, error = ""))]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        forward_id: u64,
        forward_ns: u64,
        results: Option<&Bound<'py, PyAny>>,
        error: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        // They may be made as they are taken, and so only once.
        let results = match results {
            Some(results) => results.try_iter()?.collect::<PyResult<Vec<_>>>()?,
            None => Vec::new(),
        };
        let mut parts = Parts::default();
        for (index, result) in results.iter().enumerate() {
            if self.add(&mut parts, index, result)?.is_none() {
                return self.python.bind(py).call1((forward_id, forward_ns, results, error));
            }
        }
        match parts.record(py, forward_id, forward_ns, error)? {
            Some(record) => Ok(record.into_any()),
            None => self.python.bind(py).call1((forward_id, forward_ns, results, error)),
        }
    }
}

impl ForwardWriter {
    /// `None` if it is unusual, such as memory that must be looked into.
    fn add(&self, parts: &mut Parts, index: usize, result: &Bound<'_, PyAny>) -> PyResult<Option<()>> {
        let Ok(result) = result.cast::<PyTuple>() else { return Ok(None) };
        let (text, is_failed, tensors) = (result.get_item(0)?, result.get_item(1)?, result.get_item(2)?);
        let (Ok(text), Ok(tensors)) = (text.cast_exact::<PyString>(), tensors.cast_exact::<PyTuple>()) else {
            return Ok(None);
        };
        let (at, len) = parts.text(text)?;
        parts.items.extend([at, len, u32::from(is_failed.is_truthy()?)]);
        for tensor in tensors {
            if self.add_tensor(parts, index, &tensor)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    fn add_tensor(&self, parts: &mut Parts, index: usize, tensor: &Bound<'_, PyAny>) -> PyResult<Option<()>> {
        let py = tensor.py();
        let Ok(tensor) = tensor.cast::<PyTuple>() else { return Ok(None) };
        let (name, shape, memory) = (tensor.get_item(0)?, tensor.get_item(2)?, tensor.get_item(3)?);
        let Ok(memory) = memory.cast_into::<PyTuple>() else { return Ok(None) };
        let Some(code) = self.codes.bind(py).get_item(tensor.get_item(1)?)? else { return Ok(None) };
        let Ok(shape) = shape.cast_exact::<PyTuple>() else { return Ok(None) };
        if !memory.get_type().is(&self.placed) {
            return Ok(None);
        }
        let (name_at, name_len) =
            if name.is_none() { (parts.texts.len() as u32, NO_NAME) } else { parts.text(name.cast::<PyString>()?)? };
        let word = |value: &Bound<'_, PyAny>| value.cast::<PyInt>().ok()?.extract::<u32>().ok();
        let (place, offset) = (word(&memory.get_item(0)?), word(&memory.get_item(1)?));
        let (Some(place), Some(offset), Some(code)) = (place, offset, word(&code)) else { return Ok(None) };
        let (shape_at, dimensions) = (parts.shapes.len() as u32, shape.len() as u32);
        for size in shape {
            let Some(size) = word(&size) else { return Ok(None) };
            parts.shapes.push(size);
        }
        parts.tensors.extend([index as u32, name_at, name_len, code, shape_at, dimensions, offset, place]);
        Ok(Some(()))
    }
}

/// An output's sections.
#[derive(Default)]
struct Parts {
    items: Vec<u32>,
    tensors: Vec<u32>,
    shapes: Vec<u32>,
    texts: Vec<u8>,
}

impl Parts {
    /// Where the text is, and how long.
    fn text(&mut self, text: &Bound<'_, PyString>) -> PyResult<(u32, u32)> {
        let text = text.to_str()?;
        let at = self.texts.len() as u32;
        self.texts.extend_from_slice(text.as_bytes());
        Ok((at, text.len() as u32))
    }

    /// `None` if it would be too long.
    fn record<'py>(
        &self,
        py: Python<'py>,
        forward_id: u64,
        forward_ns: u64,
        error: &str,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let tensors_at = OUTPUT_START + 4 * self.items.len();
        let shapes_at = tensors_at + 4 * self.tensors.len();
        let text_at = shapes_at + 4 * self.shapes.len();
        let data_at = (text_at + self.texts.len()).next_multiple_of(ALIGN);
        let end = (data_at + error.len()).next_multiple_of(4);
        if end > MAX_RECORD {
            return Ok(None);
        }
        let (num_items, num_tensors) = (self.items.len() / 3, self.tensors.len() / 8);
        let table = [
            (OUTPUT_START, num_items),
            (tensors_at, num_tensors),
            (shapes_at, self.shapes.len()),
            (text_at, self.texts.len()),
            (data_at, 0),
            (data_at, error.len()),
        ];
        PyBytes::new_with(py, end, |out| {
            let mut at = 0;
            let mut put = |bytes: &[u8]| {
                out[at..at + bytes.len()].copy_from_slice(bytes);
                at += bytes.len();
            };
            put(&MAGIC.to_le_bytes());
            put(&VERSION.to_le_bytes());
            put(&(RecordKind::ForwardOutput as u16).to_le_bytes());
            put(&(end as u32).to_le_bytes());
            put(&(NUM_OUTPUT_SECTIONS as u32).to_le_bytes());
            put(&forward_id.to_le_bytes());
            put(&forward_ns.to_le_bytes());
            for (start, count) in table {
                put(&(start as u32).to_le_bytes());
                put(&(count as u32).to_le_bytes());
            }
            for word in self.items.iter().chain(&self.tensors).chain(&self.shapes) {
                put(&word.to_le_bytes());
            }
            put(&self.texts);
            // What lies between is zero already.
            out[data_at..data_at + error.len()].copy_from_slice(error.as_bytes());
            Ok(())
        })
        .map(Some)
    }
}
