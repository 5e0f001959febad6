"""The forward record: items and tensors for models that are no generators, in the same frame as the step record.

The layout is drawn in `crates/pillion-core/src/forward.rs`. Reading copies no tensor: what is read says where in the
record each lies, and whoever makes a view of it keeps the record's bytes alive. Knows neither torch nor numpy.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, Protocol

from pillion._native import native
from pillion._step import HEADER, MAGIC, VERSION, encode_output, read_request_ids
from pillion.errors import PillionError, StepRecordError

__all__ = [
    "DTYPES",
    "Forward",
    "Placed",
    "Pool",
    "Result",
    "Tensor",
    "decode_forward",
    "encode_forward_output",
    "failed",
    "python_decode_forward",
    "python_encode_forward_output",
    "request_ids",
]

KIND_FORWARD: Final = 2
KIND_FORWARD_OUTPUT: Final = 4
DTYPES: Final = {
    1: ("uint8", 1),
    2: ("int8", 1),
    3: ("uint16", 2),
    4: ("int16", 2),
    5: ("uint32", 4),
    6: ("int32", 4),
    7: ("uint64", 8),
    8: ("int64", 8),
    9: ("float32", 4),
    10: ("float64", 8),
    11: ("bool", 1),
}
"""Numpy's names and the bytes of an element, by the number in the record."""

_CODES: Final = {name: code for code, (name, _) in DTYPES.items()}
_ITEM: Final = struct.Struct("<3I")
_TENSOR: Final = struct.Struct("<8I")
# The header and the table of the sections that are known; how it begins, and the bytes of an element of each section.
_HEAD: Final = struct.Struct("<8sIIQ8x10I")
_BEGIN: Final = struct.pack("<IHH", MAGIC, VERSION, KIND_FORWARD)
_OUTPUT_HEAD: Final = struct.Struct("<IHHIIQQ12I")
_ENTRY: Final = struct.Struct("<II")
_WIDTHS: Final = (_ITEM.size, _TENSOR.size, 4, 1, 1)
_NO_NAME: Final = 0xFFFF_FFFF
_NUM_SECTIONS: Final = 5
_ITEM_FAILED: Final = 1
_ALIGN: Final = 16
_MAX_DIMENSIONS: Final = 32
# Half of what the header's length can say, as on the other side.
_MAX_RECORD: Final = 0x7FFF_FFFF
# A record that is too long is refused at its end, and not before by a number that does not fit.
_WORD_MASK: Final = 0xFFFF_FFFF
_decoder: Final[Any] = json.JSONDecoder()
_decode: Final = _decoder.decode
# Without the function of Python's own that a call of the class would go through.
_new_tensor: Final = tuple.__new__


class Tensor(NamedTuple):
    """Where a tensor of an input lies. All of it is inside its record; a place is the transport's to check."""

    item: int
    name: str | None
    """The field that it is; `None` if it is the whole item."""
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """In bytes from the start of the record, or of its place."""
    place: int = 0
    """Which place of the transport's it lies in; 0 for the record itself."""


class Forward(NamedTuple):
    """Items to be answered together."""

    forward_id: int
    items: list[Any]
    """Their JSON values, without the tensors."""
    tensors: list[Tensor]


class Placed(NamedTuple):
    """Where a tensor of a result lies that is not in its record."""

    place: int
    offset: int


class Result(NamedTuple):
    """The answer to one item: JSON, and the tensors that belong into it."""

    text: str
    failed: bool = False
    """The text is an error."""
    tensors: tuple[tuple[str | None, str, tuple[int, ...], bytes | memoryview | Placed], ...] = ()
    """Name (`None` for the whole item), dtype, shape, and the bytes in C order or where they lie."""


class Pool(Protocol):
    """Places for large tensors that a transport has beside its records."""

    def lend(self, place: int, offset: int, length: int) -> memoryview:
        """Read-only memory of an input, which is the sender's again when nobody views it any more."""

    def put(self, array: Any) -> Placed | None:
        """Copies an array of a result, if it is large and there is room."""

    def take_back(self) -> None:
        """What was put since the last answer was sent will not be part of one."""


def python_decode_forward(record: bytes | bytearray | memoryview) -> Forward:
    """Reads a forward, checking every size and text."""
    # In the way of every call: what is wrong is looked for only once something is.
    data = memoryview(record).cast("B")
    size = len(data)
    if size < _HEAD.size:
        raise _damage(data)
    (begin, length, sections, forward_id, items_at, num_items, tensors_at, num_tensors, *rest) = _HEAD.unpack_from(data)
    shapes_at, num_shapes, text_at, text_len, data_at, data_len = rest
    body = HEADER.size + 8 * sections
    items_end, tensors_end = items_at + _ITEM.size * num_items, tensors_at + _TENSOR.size * num_tensors
    shapes_end, text_end = shapes_at + 4 * num_shapes, text_at + text_len
    if (
        begin != _BEGIN
        or length != size
        or not _NUM_SECTIONS <= sections <= (size - HEADER.size) >> 3
        or min(items_at, tensors_at, shapes_at, text_at, data_at) < body
        or max(items_end, tensors_end, shapes_end, text_end, data_at + data_len) > size
    ):
        raise _damage(data)
    # Texts are short; as bytes they are compared and read for less.
    text = bytes(data[text_at:text_end])
    values = [_item(text, *span) for span in _ITEM.iter_unpack(data[items_at:items_end])]
    if not num_tensors:
        return Forward(forward_id, values, [])
    sizes = struct.unpack(f"<{num_shapes}I", data[shapes_at:shapes_end])
    found = [
        _tensor(entry, text, sizes, data_at, data_len, num_items)
        for entry in _TENSOR.iter_unpack(data[tensors_at:tensors_end])
    ]
    return Forward(forward_id, values, found)


def request_ids(record: bytes | bytearray | memoryview, num_items: int) -> tuple[str, ...]:
    """The callers' names for the items of a forward that could be read: none at all, or one for each. Apart, since only
    the log wants them."""
    data = memoryview(record).cast("B")
    sections = HEADER.unpack_from(data)[4]
    if sections <= _NUM_SECTIONS:
        return ()
    return read_request_ids(data, HEADER.size + 8 * sections, _NUM_SECTIONS, num_items)


def python_encode_forward_output(
    forward_id: int, forward_ns: int, results: Iterable[Result] = (), error: str = ""
) -> bytes:
    """Writes an output. `error` is JSON or empty; with one there are no results."""
    items: list[bytes] = []
    texts: list[bytes] = []
    entries: list[bytes] = []
    shapes: list[int] = []
    blobs: list[bytes | memoryview] = []
    text_len = data_len = 0
    for index, (text, is_failed, tensors) in enumerate(results):
        encoded = text.encode("utf-8")
        length = len(encoded)
        items.append(_ITEM.pack(text_len, length, _ITEM_FAILED if is_failed else 0))
        texts.append(encoded)
        text_len += length
        for name, dtype, shape, blob in tensors:
            label = b"" if name is None else name.encode("utf-8")
            length = _NO_NAME if name is None else len(label)
            if isinstance(blob, Placed):
                place, begin = blob.place, blob.offset
            else:
                place, begin = 0, data_len & _WORD_MASK
                padding = -len(blob) % _ALIGN
                blobs += (blob, bytes(padding))
                data_len += len(blob) + padding
            entries.append(_TENSOR.pack(index, text_len, length, _CODES[dtype], len(shapes), len(shape), begin, place))
            texts.append(label)
            text_len += len(label)
            shapes += shape
    whole = error.encode("utf-8")
    # Items, tensors and shapes are words; the data want more.
    tensors_at = _OUTPUT_HEAD.size + _ITEM.size * len(items)
    shapes_at = tensors_at + _TENSOR.size * len(entries)
    text_at = shapes_at + 4 * len(shapes)
    before_data = -(text_at + text_len) % _ALIGN
    data_at = text_at + text_len + before_data
    error_at = data_at + data_len
    at_end = -(error_at + len(whole)) % 4
    end = error_at + len(whole) + at_end
    if end > _MAX_RECORD:
        raise PillionError("unsupported", f"results of {end} bytes are more than one record carries")
    head = _OUTPUT_HEAD.pack(
        MAGIC,
        VERSION,
        KIND_FORWARD_OUTPUT,
        end,
        6,
        forward_id,
        forward_ns,
        *(_OUTPUT_HEAD.size, len(items), tensors_at, len(entries), shapes_at, len(shapes)),
        *(text_at, text_len, data_at, data_len, error_at, len(whole)),
    )
    sizes = struct.pack(f"<{len(shapes)}I", *shapes)
    return b"".join((head, *items, *entries, sizes, *texts, bytes(before_data), *blobs, whole, bytes(at_end)))


def failed(record: bytes | bytearray | memoryview, error: str) -> bytes:
    """The output that says that a record, of whatever kind and perhaps damaged, failed as a whole."""
    kind = int.from_bytes(record[6:8], "little")
    number = int.from_bytes(record[16:24], "little") if len(record) >= 24 else 0
    if kind == KIND_FORWARD:
        return encode_forward_output(number, 0, error=error)
    return encode_output(number, 0, error=error)


def _damage(data: memoryview) -> StepRecordError:
    """What is wrong with a forward that cannot be read."""
    size = len(data)
    if size < HEADER.size:
        return _bad(f"{size} bytes, shorter than a header")
    magic, version, kind, length, sections, _, _ = HEADER.unpack_from(data)
    if magic != MAGIC:
        return _bad(f"no step record (magic {magic:#x})")
    if version != VERSION:
        return StepRecordError(
            f"a step record of version {version}, this side speaks {VERSION}", code="version_mismatch"
        )
    if kind != KIND_FORWARD:
        return _bad(f"kind {kind} where {KIND_FORWARD} was expected")
    if length != size:
        return _bad(f"{size} bytes, its header says {length}")
    if not 5 <= sections <= (size - HEADER.size) // 8:
        return _bad(f"{sections} sections")
    body = HEADER.size + 8 * sections
    for index, width in enumerate(_WIDTHS):
        offset, count = _ENTRY.unpack_from(data, HEADER.size + 8 * index)
        if offset < body or offset + count * width > size:
            return _bad(f"section {index} ({count} elements at byte {offset}) lies outside")
    raise AssertionError("a forward that can be read was called damaged")


def _item(text: bytes, offset: int, length: int, flags: int) -> Any:
    if flags:
        raise _bad(f"an input with flags {flags}")
    if length == 4 and text[offset : offset + 4] == b"null":
        # As it is wherever an item is a tensor.
        return None
    json_text = _text(text, offset, length)
    try:
        return _decode(json_text)
    except (ValueError, RecursionError) as error:
        raise _bad(f"an item is no JSON: {error}") from error


def _tensor(
    entry: tuple[int, ...], text: bytes, sizes: tuple[int, ...], data_at: int, data_len: int, num_items: int
) -> Tensor:
    item, name_at, name_len, code, shape_at, dimensions, offset, place = entry
    if item >= num_items:
        raise _bad(f"a tensor of item {item} of {num_items}")
    if code not in DTYPES:
        raise _bad(f"a tensor of dtype {code}")
    if dimensions > _MAX_DIMENSIONS:
        raise _bad(f"a tensor of {dimensions} dimensions")
    if shape_at + dimensions > len(sizes):
        raise _bad(f"{dimensions} at {shape_at} lie outside their section of {len(sizes)}")
    dtype, width = DTYPES[code]
    shape = sizes[shape_at : shape_at + dimensions]
    if offset % _ALIGN:
        raise _bad(f"a tensor at {offset}")
    if not place and offset + math.prod(shape) * width > data_len:
        raise _bad(f"a tensor of shape {list(shape)} at {offset} lies outside")
    name = None if name_len == _NO_NAME else _text(text, name_at, name_len)
    return _new_tensor(Tensor, (item, name, dtype, shape, offset if place else data_at + offset, place))


def _text(text: bytes, offset: int, length: int) -> str:
    if offset + length > len(text):
        raise _bad(f"{length} at {offset} lie outside their section of {len(text)}")
    try:
        return str(text[offset : offset + length], "utf-8")
    except UnicodeDecodeError as error:
        raise _bad("a text that is not UTF-8") from error


def _bad(what: str) -> StepRecordError:
    return StepRecordError(f"a step record cannot be read: {what}")


# As with steps: in native code, where there is some, and what is unusual comes back to the functions above.
decode_forward: Final[Callable[[bytes | bytearray | memoryview], Forward]] = (
    python_decode_forward
    if native is None
    else native.ForwardReader(Forward, Tensor, _decoder.scan_once, python_decode_forward).decode
)
"""Reads a forward, checking every size and text."""
encode_forward_output: Final[Callable[..., bytes]] = (
    python_encode_forward_output
    if native is None
    else native.ForwardWriter(Placed, _CODES, python_encode_forward_output).encode
)
"""As `python_encode_forward_output`."""
