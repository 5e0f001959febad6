"""The forward record: items and tensors for models that are no generators, in the same frame as the step record.

The layout is drawn in `crates/pillion-core/src/forward.rs`. Reading copies no tensor: what is read says where in the
record each lies, and whoever makes a view of it keeps the record's bytes alive. Knows neither torch nor numpy.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Protocol

from pillion._step import HEADER, MAGIC, VERSION, encode_output
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
# Of the sections that are known: offsets and counts, and the bytes of an element.
_TABLE: Final = struct.Struct("<10I")
_WIDTHS: Final = (_ITEM.size, _TENSOR.size, 4, 1, 1)
_NO_NAME: Final = 0xFFFF_FFFF
_ITEM_FAILED: Final = 1
_ALIGN: Final = 16
_MAX_DIMENSIONS: Final = 32
# Half of what the header's length can say, as on the other side.
_MAX_RECORD: Final = 0x7FFF_FFFF


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


def decode_forward(record: bytes | bytearray | memoryview) -> Forward:
    """Reads a forward, checking every size and text."""
    data = memoryview(record).cast("B")
    forward_id, body = _check_header(data)
    table = _TABLE.unpack_from(data, HEADER.size)
    items, tensors, shapes, text, _ = (
        _section(data, body, index, table[2 * index], table[2 * index + 1], width)
        for index, width in enumerate(_WIDTHS)
    )
    data_at, data_len = table[8:]
    values = [_item(text, *span) for span in _ITEM.iter_unpack(items)]
    sizes = [size for (size,) in struct.iter_unpack("<I", shapes)]
    found = []
    for entry in _TENSOR.iter_unpack(tensors):
        tensor = _tensor(entry, text, sizes, data_len)
        if tensor.item >= len(values):
            raise _bad(f"a tensor of item {tensor.item} of {len(values)}")
        found.append(tensor if tensor.place else tensor._replace(offset=data_at + tensor.offset))
    return Forward(forward_id, values, found)


def encode_forward_output(forward_id: int, forward_ns: int, results: Iterable[Result] = (), error: str = "") -> bytes:
    """Writes an output. `error` is JSON or empty; with one there are no results."""
    results = list(results)
    texts = [result.text.encode("utf-8") for result in results]
    names: list[bytes] = []
    items, tensors, shapes = bytearray(), bytearray(), bytearray()
    blobs: list[bytes | memoryview] = []
    at = 0
    for result, encoded in zip(results, texts, strict=True):
        items += _ITEM.pack(at, len(encoded), _ITEM_FAILED if result.failed else 0)
        at += len(encoded)
    data_at = shape_at = 0
    for index, result in enumerate(results):
        for name, dtype, shape, blob in result.tensors:
            label = b"" if name is None else name.encode("utf-8")
            length = _NO_NAME if name is None else len(label)
            place, begin = (blob.place, blob.offset) if isinstance(blob, Placed) else (0, data_at)
            tensors += _TENSOR.pack(index, at, length, _CODES[dtype], shape_at, len(shape), begin, place)
            shapes += struct.pack(f"<{len(shape)}I", *shape)
            names.append(label)
            at += len(label)
            shape_at += len(shape)
            if not isinstance(blob, Placed):
                padding = -len(blob) % _ALIGN
                blobs += (blob, bytes(padding))
                data_at += len(blob) + padding
    text, whole = b"".join([*texts, *names]), error.encode("utf-8")
    sections: list[tuple[int, list[Any], int]] = [
        (len(results), [items], 4),
        (len(tensors) // _TENSOR.size, [tensors], 4),
        (shape_at, [shapes], 4),
        (len(text), [text], 4),
        (data_at, blobs, _ALIGN),
        (len(whole), [whole], 4),
    ]
    return _join(forward_id, forward_ns, sections)


def failed(record: bytes | bytearray | memoryview, error: str) -> bytes:
    """The output that says that a record, of whatever kind and perhaps damaged, failed as a whole."""
    kind = int.from_bytes(record[6:8], "little")
    number = int.from_bytes(record[16:24], "little") if len(record) >= 24 else 0
    if kind == KIND_FORWARD:
        return encode_forward_output(number, 0, error=error)
    return encode_output(number, 0, error=error)


def _join(forward_id: int, forward_ns: int, sections: list[tuple[int, list[Any], int]]) -> bytes:
    start = HEADER.size + 8 * len(sections)
    table = bytearray()
    parts: list[Any] = []
    end = start
    for count, blobs, align in sections:
        padding = -end % align
        parts.append(bytes(padding))
        end += padding
        table += struct.pack("<II", end & 0xFFFF_FFFF, count)
        parts += blobs
        end += sum(map(len, blobs))
    padding = -end % 4
    end += padding
    if end > _MAX_RECORD:
        raise PillionError("unsupported", f"results of {end} bytes are more than one record carries")
    header = HEADER.pack(MAGIC, VERSION, KIND_FORWARD_OUTPUT, end, len(sections), forward_id, forward_ns)
    return b"".join((header, table, *parts, bytes(padding)))


def _check_header(data: memoryview) -> tuple[int, int]:
    """The forward's id, and where the sections begin."""
    size = len(data)
    if size < HEADER.size:
        raise _bad(f"{size} bytes, shorter than a header")
    magic, version, kind, length, sections, forward_id, _ = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _bad(f"no step record (magic {magic:#x})")
    if version != VERSION:
        raise StepRecordError(
            f"a step record of version {version}, this side speaks {VERSION}", code="version_mismatch"
        )
    if kind != KIND_FORWARD:
        raise _bad(f"kind {kind} where {KIND_FORWARD} was expected")
    if length != size:
        raise _bad(f"{size} bytes, its header says {length}")
    if not 5 <= sections <= (size - HEADER.size) // 8:
        raise _bad(f"{sections} sections")
    return forward_id, HEADER.size + 8 * sections


def _section(data: memoryview, body: int, index: int, offset: int, count: int, width: int) -> memoryview:
    end = offset + count * width
    if offset < body or end > len(data):
        raise _bad(f"section {index} ({count} elements at byte {offset}) lies outside")
    return data[offset:end]


def _item(text: memoryview, offset: int, length: int, flags: int) -> Any:
    if flags:
        raise _bad(f"an input with flags {flags}")
    try:
        return json.loads(_text(text, offset, length))
    except (ValueError, RecursionError) as error:
        raise _bad(f"an item is no JSON: {error}") from error


def _tensor(entry: tuple[int, ...], text: memoryview, sizes: list[int], data_len: int) -> Tensor:
    item, name_at, name_len, code, shape_at, dimensions, offset, place = entry
    if code not in DTYPES:
        raise _bad(f"a tensor of dtype {code}")
    if dimensions > _MAX_DIMENSIONS:
        raise _bad(f"a tensor of {dimensions} dimensions")
    if shape_at + dimensions > len(sizes):
        raise _bad(f"{dimensions} at {shape_at} lie outside their section of {len(sizes)}")
    dtype, width = DTYPES[code]
    shape = tuple(sizes[shape_at : shape_at + dimensions])
    if offset % _ALIGN:
        raise _bad(f"a tensor at {offset}")
    if not place and offset + math.prod(shape) * width > data_len:
        raise _bad(f"a tensor of shape {list(shape)} at {offset} lies outside")
    name = None if name_len == _NO_NAME else _text(text, name_at, name_len)
    return Tensor(item, name, dtype, shape, offset, place)


def _text(text: memoryview, offset: int, length: int) -> str:
    if offset + length > len(text):
        raise _bad(f"{length} at {offset} lie outside their section of {len(text)}")
    try:
        return str(text[offset : offset + length], "utf-8")
    except UnicodeDecodeError as error:
        raise _bad("a text that is not UTF-8") from error


def _bad(what: str) -> StepRecordError:
    return StepRecordError(f"a step record cannot be read: {what}")
