//! The forward record: items and tensors for models that are no generators, in the same frame as the [step record](crate::step).
//!
//! A forward (kind 2) has five sections, or six if it has request ids, and its output (kind 4) six, in this order; each begins at a multiple of 4 bytes, the data at a
//! multiple of 16:
//!
//! | section | element | meaning |
//! |---|---|---|
//! | items | 12 bytes | offset and length (u32) of the item's JSON in the text; flags (u32): 1 if that is an error, in an output only |
//! | tensors | 32 bytes | see below |
//! | shapes | u32 | the sizes of the tensors' dimensions, one tensor's after the other's |
//! | text | u8 | UTF-8: JSON of the items, names of fields |
//! | data | u8 | what is in the tensors, C order, little-endian, each at a multiple of 16 bytes |
//! | request ids | u8 | forward only, and only if there are any: for each item the length (u32) and the UTF-8 of its request's id |
//! | error | u8 | output only: the error as JSON if the whole forward failed; there are no items then |
//!
//! A tensor is eight u32: the item that it belongs to; offset and length of its name in the text (a length of 2^32 - 1: it has no name); its
//! [`Dtype`]; where its sizes begin in the shapes, and how many they are; where its data begin in the data; and 0, or the number of a
//! [`Place`] of the transport's own, in which it lies instead. A named tensor is the field of that name of its item, whose JSON is an object without it; one without a name is its item,
//! whose JSON is `null`. The id in the header is the forward's.

use std::{any::Any, sync::Arc};

use crate::{
    error::{Error, ErrorCode, Result},
    record::{HEADER_LEN, Reader, RecordKind, Writer, bad, le32, read_texts},
};

mod memory;

pub use memory::{Place, TensorMemory, TensorStore};

/// [`Dtype`]s by their number in the record.
const DTYPES: [Dtype; 11] = [
    Dtype::Uint8,
    Dtype::Int8,
    Dtype::Uint16,
    Dtype::Int16,
    Dtype::Uint32,
    Dtype::Int32,
    Dtype::Uint64,
    Dtype::Int64,
    Dtype::Float32,
    Dtype::Float64,
    Dtype::Bool,
];
/// Dimensions that a tensor may have.
const MAX_DIMENSIONS: usize = 32;
/// In place of the length of a name.
const NO_NAME: u32 = u32::MAX;
/// Of an item's flags: its JSON is an error.
const ITEM_FAILED: u32 = 1;
const ITEM_LEN: usize = 12;
const TENSOR_LEN: usize = 32;
/// What every dtype, and the vector instructions that read it, can live with.
const ALIGN: usize = 16;

/// What a tensor's elements are. A bool takes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[expect(missing_docs, reason = "numpy's names")]
pub enum Dtype {
    Uint8 = 1,
    Int8 = 2,
    Uint16 = 3,
    Int16 = 4,
    Uint32 = 5,
    Int32 = 6,
    Uint64 = 7,
    Int64 = 8,
    Float32 = 9,
    Float64 = 10,
    Bool = 11,
}

impl Dtype {
    /// The dtype of a number in the record.
    pub fn from_code(code: u32) -> Option<Self> {
        DTYPES.into_iter().find(|dtype| *dtype as u32 == code)
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::Uint8 | Self::Int8 | Self::Bool => 1,
            Self::Uint16 | Self::Int16 => 2,
            Self::Uint32 | Self::Int32 | Self::Float32 => 4,
            Self::Uint64 | Self::Int64 | Self::Float64 => 8,
        }
    }

    /// Numpy's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uint8 => "uint8",
            Self::Int8 => "int8",
            Self::Uint16 => "uint16",
            Self::Int16 => "int16",
            Self::Uint32 => "uint32",
            Self::Int32 => "int32",
            Self::Uint64 => "uint64",
            Self::Int64 => "int64",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Bool => "bool",
        }
    }
}

/// Numbers of one dtype in C order, little-endian.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: Dtype,
    shape: Vec<u32>,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    /// Shared, so that a tensor can be handed on without its bytes.
    Owned(Arc<Vec<u8>>),
    Lent(Arc<dyn TensorMemory>),
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        (self.dtype, &self.shape) == (other.dtype, &other.shape) && self.to_vec() == other.to_vec()
    }
}

impl Eq for Tensor {}

impl Tensor {
    /// Checks that there are as many bytes as the shape asks for.
    pub fn new(dtype: Dtype, shape: Vec<u32>, data: Vec<u8>) -> Result<Self> {
        Self::of(dtype, shape, Data::Owned(Arc::new(data)))
    }

    /// The same, of bytes that lie in a transport's memory.
    pub fn lent(dtype: Dtype, shape: Vec<u32>, memory: Arc<dyn TensorMemory>) -> Result<Self> {
        Self::of(dtype, shape, Data::Lent(memory))
    }

    fn of(dtype: Dtype, shape: Vec<u32>, data: Data) -> Result<Self> {
        let tensor = Self { dtype, shape, data };
        if byte_len(dtype, &tensor.shape) != Some(tensor.byte_len()) {
            let (name, shape, len) = (dtype.as_str(), &tensor.shape, tensor.byte_len());
            let message = format!("a tensor of {name} and shape {shape:?} cannot have {len} bytes");
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        }
        Ok(tensor)
    }

    /// What its elements are.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The sizes of its dimensions.
    pub fn shape(&self) -> &[u32] {
        &self.shape
    }

    /// How many bytes its elements take.
    pub fn byte_len(&self) -> usize {
        match &self.data {
            Data::Owned(bytes) => bytes.len(),
            Data::Lent(memory) => memory.len(),
        }
    }

    /// Copies its elements behind what `out` holds.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        match &self.data {
            Data::Owned(bytes) => out.extend_from_slice(bytes),
            Data::Lent(memory) => memory.append_to(out),
        }
    }

    /// A copy of its elements.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.byte_len());
        self.append_to(&mut bytes);
        bytes
    }

    /// Its elements, which are copied only if somebody else may use the memory.
    pub fn into_vec(self) -> Vec<u8> {
        match self.data {
            Data::Owned(bytes) => Arc::unwrap_or_clone(bytes),
            Data::Lent(memory) => memory.into_vec(),
        }
    }

    /// Its elements, unless they lie in memory that can only be copied out.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match &self.data {
            Data::Owned(bytes) => Some(bytes),
            Data::Lent(_) => None,
        }
    }

    /// The memory in which they lie, if it is of kind `M`: a transport knows its own so.
    pub fn memory<M: TensorMemory>(&self) -> Option<Arc<M>> {
        let Data::Lent(memory) = &self.data else { return None };
        Arc::downcast(Arc::clone(memory) as Arc<dyn Any + Send + Sync>).ok()
    }
}

/// An input or a result: a JSON value, some of whose fields may be tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardItem {
    /// The value without its tensors. The caller knows that it is JSON; a decoder checks it.
    pub json: String,
    /// Its tensors, each with the name of its field; without a name it is the whole item.
    pub tensors: Vec<(Option<String>, Tensor)>,
}

impl ForwardItem {
    /// How much there is to carry, in bytes.
    pub fn size(&self) -> usize {
        let tensors = self.tensors.iter();
        self.json.len() + tensors.map(|(_, t)| t.byte_len() + ALIGN + TENSOR_LEN).sum::<usize>() + ITEM_LEN
    }
}

/// Items to be answered together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardBatch {
    /// Counts up; the output carries it back.
    pub forward_id: u64,
    /// At least one.
    pub items: Vec<ForwardItem>,
    /// The callers' names for the requests that the items belong to, for the worker's log: none at all, or one for each.
    pub request_ids: Vec<String>,
}

/// The answer to a [`ForwardBatch`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardOutput {
    /// The forward's id.
    pub forward_id: u64,
    /// Time that the model took.
    pub forward_ns: u64,
    /// One for each item, in order; empty if `error` is set.
    pub results: Vec<Result<ForwardItem>>,
    /// Why there are no results. The worker itself goes on.
    pub error: Option<Error>,
}

impl ForwardBatch {
    /// Writes the record over whatever `out` held. Refuses what is longer than a record can be.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<()> {
        self.encode_placed(out, |_| None)
    }

    /// The same, without the tensors that `place` has put somewhere else. It is asked for each once, in order.
    pub fn encode_placed(&self, out: &mut Vec<u8>, place: impl FnMut(&Tensor) -> Option<Place>) -> Result<()> {
        let items = self.items.iter().map(|item| (item.json.as_str(), 0, item.tensors.as_slice()));
        let parts = Parts::new(items, place)?;
        let sections = if self.request_ids.is_empty() { 5 } else { 6 };
        let mut w = Writer::new(out, RecordKind::Forward, self.forward_id, 0, sections);
        parts.write(&mut w);
        if !self.request_ids.is_empty() {
            w.texts(&self.request_ids);
        }
        w.finish();
        Ok(())
    }

    /// Reads a record, checking every size and text.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let r = Reader::new(bytes, RecordKind::Forward, 5)?;
        let read = |(flags, item)| match flags {
            0 => Ok(item),
            flags => Err(bad(format_args!("an input with flags {flags}"))),
        };
        let items = read_items(&r, &mut |_, _| None)?.into_iter().map(read).collect::<Result<Vec<_>>>()?;
        let request_ids = if r.sections > 5 { read_texts(r.bytes(5)?)? } else { Vec::new() };
        if !request_ids.is_empty() && request_ids.len() != items.len() {
            return Err(bad(format_args!("{} request ids for {} inputs", request_ids.len(), items.len())));
        }
        Ok(Self { forward_id: r.step_id, items, request_ids })
    }
}

impl ForwardOutput {
    /// An output that says that the whole forward failed.
    pub fn failed(forward_id: u64, error: Error) -> Self {
        Self { forward_id, error: Some(error), ..Self::default() }
    }

    /// Writes the record over whatever `out` held. Refuses what is longer than a record can be.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<()> {
        let errors: Vec<_> = self.results.iter().map(|r| r.as_ref().err().map(Error::to_json)).collect();
        let items = self.results.iter().zip(&errors).map(|(result, error)| match (result, error) {
            (Ok(item), _) => (item.json.as_str(), 0, item.tensors.as_slice()),
            (Err(_), error) => (error.as_deref().unwrap_or_default(), ITEM_FAILED, &[][..]),
        });
        let parts = Parts::new(items, |_| None)?;
        let mut w = Writer::new(out, RecordKind::ForwardOutput, self.forward_id, self.forward_ns, 6);
        parts.write(&mut w);
        let error = self.error.as_ref().map(Error::to_json).unwrap_or_default();
        w.begin(4, error.len());
        w.out.extend_from_slice(error.as_bytes());
        w.finish();
        Ok(())
    }

    /// Reads a record, checking every size and text.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::decode_placed(bytes, |_, _| None)
    }

    /// The same, with tensors that lie somewhere else: `find` is told where and how many bytes, and checks both.
    pub fn decode_placed(
        bytes: &[u8],
        mut find: impl FnMut(Place, usize) -> Option<Arc<dyn TensorMemory>>,
    ) -> Result<Self> {
        let r = Reader::new(bytes, RecordKind::ForwardOutput, 6)?;
        let read = |(flags, item): (u32, ForwardItem)| match flags {
            0 => Ok(Ok(item)),
            ITEM_FAILED if item.tensors.is_empty() => Ok(Err(Error::from_json(&item.json))),
            ITEM_FAILED => Err(bad(format_args!("a tensor of an item that failed"))),
            flags => Err(bad(format_args!("a result with flags {flags}"))),
        };
        let results = read_items(&r, &mut find)?.into_iter().map(read).collect::<Result<Vec<_>>>()?;
        let error = match utf8(r.bytes(5)?)? {
            "" => None,
            json => Some(Error::from_json(json)),
        };
        if error.is_some() && !results.is_empty() {
            return Err(bad(format_args!("{} results beside an error", results.len())));
        }
        Ok(Self { forward_id: r.step_id, forward_ns: r.time_ns, results, error })
    }
}

/// An item as it is written: its JSON, its flags, its tensors.
type Part<'a> = (&'a str, u32, &'a [(Option<String>, Tensor)]);

/// The sections that both kinds have. Every sum was checked to fit the record.
struct Parts<'a> {
    items: Vec<Part<'a>>,
    /// One for each tensor.
    places: Vec<Option<Place>>,
    text: usize,
    data: usize,
}

impl<'a> Parts<'a> {
    fn new(items: impl Iterator<Item = Part<'a>>, mut place: impl FnMut(&Tensor) -> Option<Place>) -> Result<Self> {
        let items: Vec<_> = items.collect();
        let places: Vec<_> = items.iter().flat_map(|(_, _, tensors)| *tensors).map(|(_, t)| place(t)).collect();
        let tensors = || items.iter().flat_map(|(_, _, tensors)| tensors.iter());
        let names: usize = tensors().map(|(name, _)| name.as_ref().map_or(0, String::len)).sum();
        let text = names + items.iter().map(|(json, ..)| json.len()).sum::<usize>();
        let here = tensors().zip(&places).filter(|(_, place)| place.is_none());
        let data = here.map(|((_, t), _)| t.byte_len().next_multiple_of(ALIGN)).sum();
        let tables = tensors().map(|(_, t)| TENSOR_LEN + 4 * t.shape.len()).sum::<usize>() + ITEM_LEN * items.len();
        // A whole error may follow, whose length is bounded.
        let total = HEADER_LEN + tables + text + data;
        if total > (u32::MAX / 2) as usize {
            let message = format!("{total} bytes are more than one record carries");
            return Err(Error::new(ErrorCode::Unsupported, message).with_remedy("send less at once"));
        }
        Ok(Self { items, places, text, data })
    }

    fn write(&self, w: &mut Writer<'_>) {
        let tensors = || self.items.iter().enumerate().flat_map(|(i, item)| item.2.iter().map(move |t| (i as u32, t)));
        let mut offset = 0;
        w.section(&self.items, |w, (json, flags, _)| {
            w.u32(offset);
            w.u32(json.len() as u32);
            w.u32(*flags);
            offset += json.len() as u32;
        });
        let (mut shape_at, mut data_at) = (0, 0);
        w.begin(4, tensors().count());
        for ((item, (name, tensor)), place) in tensors().zip(&self.places) {
            let len = name.as_ref().map_or(NO_NAME, |name| name.len() as u32);
            let dimensions = tensor.shape.len() as u32;
            let (at, number) = place.map_or((data_at, 0), |place| (place.offset, place.number));
            for word in [item, offset, len, tensor.dtype as u32, shape_at, dimensions, at, number] {
                w.u32(word);
            }
            offset += name.as_ref().map_or(0, |name| name.len() as u32);
            shape_at += dimensions;
            if place.is_none() {
                data_at += tensor.byte_len().next_multiple_of(ALIGN) as u32;
            }
        }
        w.begin(4, shape_at as usize);
        tensors().flat_map(|(_, (_, t))| &t.shape).for_each(|size| w.u32(*size));
        w.begin(4, self.text);
        self.items.iter().for_each(|(json, ..)| w.out.extend_from_slice(json.as_bytes()));
        tensors().filter_map(|(_, (name, _))| name.as_ref()).for_each(|n| w.out.extend_from_slice(n.as_bytes()));
        w.begin(ALIGN, self.data);
        for ((_, (_, tensor)), _) in tensors().zip(&self.places).filter(|(_, place)| place.is_none()) {
            tensor.append_to(w.out);
            w.pad(ALIGN);
        }
    }
}

/// Gives the memory at a place, if so many bytes of it can be had.
type Find<'a> = &'a mut dyn FnMut(Place, usize) -> Option<Arc<dyn TensorMemory>>;

/// The items with their flags.
fn read_items(r: &Reader<'_>, find: Find<'_>) -> Result<Vec<(u32, ForwardItem)>> {
    let spans = r.section(0, ITEM_LEN, |b| (le32(b, 0), le32(b, 4), le32(b, 8)))?;
    let tensors = r.section(1, TENSOR_LEN, |b| std::array::from_fn::<u32, 8, _>(|i| le32(b, 4 * i)))?;
    let shapes = r.section(2, 4, |b| le32(b, 0))?;
    let (text, data) = (r.bytes(3)?, r.bytes(4)?);
    let mut items = Vec::with_capacity(spans.len());
    for (offset, len, flags) in spans {
        let json = utf8(part(text, offset, len)?)?;
        serde_json::from_str::<serde::de::IgnoredAny>(json)
            .map_err(|e| bad(format_args!("item {} is no JSON: {e}", items.len())))?;
        items.push((flags, ForwardItem { json: json.to_owned(), tensors: Vec::new() }));
    }
    for entry in tensors {
        let num_items = items.len();
        let item = items
            .get_mut(entry[0] as usize)
            .ok_or_else(|| bad(format_args!("a tensor of item {} of {num_items}", entry[0])))?;
        item.1.tensors.push(read_tensor(entry, text, &shapes, data, find)?);
    }
    Ok(items)
}

fn read_tensor(
    entry: [u32; 8],
    text: &[u8],
    shapes: &[u32],
    data: &[u8],
    find: Find<'_>,
) -> Result<(Option<String>, Tensor)> {
    let [_, name_at, name_len, dtype, shape_at, dimensions, offset, number] = entry;
    let name = match name_len {
        NO_NAME => None,
        len => Some(utf8(part(text, name_at, len)?)?.to_owned()),
    };
    let dtype = Dtype::from_code(dtype).ok_or_else(|| bad(format_args!("a tensor of dtype {dtype}")))?;
    if dimensions as usize > MAX_DIMENSIONS {
        return Err(bad(format_args!("a tensor of {dimensions} dimensions")));
    }
    let shape = part(shapes, shape_at, dimensions)?.to_vec();
    if !(offset as usize).is_multiple_of(ALIGN) {
        return Err(bad(format_args!("a tensor at {offset}")));
    }
    let outside = || bad(format_args!("a tensor of shape {shape:?} at {offset} in place {number} lies outside"));
    let len = byte_len(dtype, &shape).ok_or_else(outside)?;
    let data = if number == 0 {
        let end = (offset as usize).checked_add(len).ok_or_else(outside)?;
        Data::Owned(Arc::new(data.get(offset as usize..end).ok_or_else(outside)?.to_vec()))
    } else {
        let memory = find(Place { number, offset }, len).filter(|memory| memory.len() == len);
        Data::Lent(memory.ok_or_else(outside)?)
    };
    Ok((name, Tensor { dtype, shape, data }))
}

/// `None` if that is more than can be counted.
fn byte_len(dtype: Dtype, shape: &[u32]) -> Option<usize> {
    shape.iter().try_fold(dtype.size(), |len, size| len.checked_mul(*size as usize))
}

fn part<T>(all: &[T], offset: u32, len: u32) -> Result<&[T]> {
    (offset as usize)
        .checked_add(len as usize)
        .and_then(|end| all.get(offset as usize..end))
        .ok_or_else(|| bad(format_args!("{len} at {offset} lie outside their section of {}", all.len())))
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| bad(format_args!("a text that is not UTF-8")))
}

#[cfg(test)]
mod tests;
