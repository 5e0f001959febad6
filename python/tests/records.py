"""The Rust side of the records, for tests: writes steps and forwards, reads outputs."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pillion._forward import DTYPES, KIND_FORWARD, KIND_FORWARD_OUTPUT
from pillion._step import HEADER, KIND_STEP, KIND_STEP_OUTPUT, MAGIC, NEW_SEQUENCE, NewSequence


def sequence(slot: int, prompt_offset: int, prompt_len: int, **fields: Any) -> NewSequence:
    """A greedy sequence, with fields to taste."""
    values: dict[str, Any] = {
        "slot": slot,
        "prompt_offset": prompt_offset,
        "prompt_len": prompt_len,
        "flags": 0,
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "seed": 0,
        "logprobs": 0,
        "max_len": prompt_len + 1,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
    }
    return NewSequence(**(values | fields))


@dataclass
class StepRecord:
    """A step before it is written."""

    step_id: int = 0
    freed: list[int] = field(default_factory=list)
    new: list[NewSequence] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    bitmask: list[int] = field(default_factory=list)
    rows: list[tuple[int, int, int, int]] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)

    def encode(self, extra_sections: int = 0) -> bytes:
        """The record's bytes; sections that the reader does not know may follow the known ones."""
        sections = [
            (len(self.freed), words(self.freed)),
            (len(self.new), b"".join(NEW_SEQUENCE.pack(*new) for new in self.new)),
            (len(self.prompts), words(self.prompts)),
            (len(self.copies), b"".join(words(copy) for copy in self.copies)),
            (len(self.bitmask), words(self.bitmask)),
            (len(self.rows), b"".join(words(row) for row in self.rows)),
        ]
        if self.request_ids or extra_sections:
            ids = b"".join(struct.pack("<I", len(i.encode())) + i.encode() for i in self.request_ids)
            sections.append((len(ids), ids + bytes(-len(ids) % 4)))
        sections += [(3, b"new ....")] * extra_sections
        return record(KIND_STEP, self.step_id, 0, sections)


@dataclass
class Output:
    """An output as Rust would read it."""

    step_id: int
    forward_ns: int
    tokens: list[int]
    logprobs: list[float]
    top: list[tuple[int, int, float]]
    error: dict[str, Any] | None


def words(values: Any) -> bytes:
    """Little-endian words."""
    values = list(values)
    return struct.pack(f"<{len(values)}I", *values)


def record(kind: int, step_id: int, time_ns: int, sections: list[tuple[int, bytes]], version: int = 1) -> bytes:
    """Header, table and sections, padded to whole words."""
    table, body = b"", b""
    start = HEADER.size + 8 * len(sections)
    for count, data in sections:
        table += words((start + len(body), count))
        body += data
    body += bytes(-len(body) % 4)
    header = HEADER.pack(MAGIC, version, kind, start + len(body), len(sections), step_id, time_ns)
    return header + table + body


def decode_output(data: bytes) -> Output:
    """Reads an output record, checking what Rust checks."""
    magic, version, kind, length, sections, step_id, forward_ns = HEADER.unpack_from(data)
    assert (magic, version, kind, length, sections) == (MAGIC, 1, KIND_STEP_OUTPUT, len(data), 4)
    parts = []
    for index, size in enumerate((4, 4, 12, 1)):
        offset, count = struct.unpack_from("<II", data, HEADER.size + 8 * index)
        assert HEADER.size + 32 <= offset and offset + count * size <= len(data)
        parts.append(data[offset : offset + count * size])
    tokens = [value for (value,) in struct.iter_unpack("<I", parts[0])]
    logprobs = [value for (value,) in struct.iter_unpack("<f", parts[1])]
    top = list(struct.iter_unpack("<IIf", parts[2]))
    assert not logprobs or len(logprobs) == len(tokens)
    assert all(index < len(tokens) for index, _, _ in top)
    error = json.loads(parts[3]) if parts[3] else None
    return Output(step_id, forward_ns, tokens, logprobs, top, error)


Tensor = tuple[str | None, str, tuple[int, ...], bytes]
"""Name, dtype, shape, data."""


def encode_forward(forward_id: int, items: list[tuple[Any, list[Tensor]]], request_ids: Sequence[str] = ()) -> bytes:
    """A forward record of JSON values, each with its tensors."""
    codes = {name: code for code, (name, _) in DTYPES.items()}
    text, data, table, shapes, spans = b"", b"", b"", b"", b""
    for value, _ in items:
        encoded = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        spans += words((len(text), len(encoded), 0))
        text += encoded
    for index, (_, tensors) in enumerate(items):
        for name, dtype, shape, blob in tensors:
            label = b"" if name is None else name.encode()
            length = 0xFFFF_FFFF if name is None else len(label)
            table += words((index, len(text), length, codes[dtype], len(shapes) // 4, len(shape), len(data), 0))
            text += label
            shapes += words(shape)
            data += blob + bytes(-len(blob) % 16)
    # The data begin at a multiple of 16.
    start = HEADER.size + 8 * (6 if request_ids else 5) + len(spans) + len(table) + len(shapes)
    padded = text + bytes(-(start + len(text)) % 16)
    sections = [(len(items), spans), (len(table) // 32, table), (len(shapes) // 4, shapes)]
    sections += [(len(text), padded), (len(data), data)]
    if request_ids:
        names = b"".join(words((len(name.encode()),)) + name.encode() for name in request_ids)
        sections.append((len(names), names))
    return record(KIND_FORWARD, forward_id, 0, sections)


@dataclass
class ForwardOutput:
    """A forward output as Rust would read it; a result is `(value, tensors)` or an error."""

    forward_id: int
    forward_ns: int
    results: list[tuple[Any, list[Tensor]] | dict[str, Any]]
    error: dict[str, Any] | None


def decode_forward_output(data: bytes) -> ForwardOutput:
    """Reads a forward output, checking what Rust checks."""
    magic, version, kind, length, sections, forward_id, forward_ns = HEADER.unpack_from(data)
    assert (magic, version, kind, length, sections) == (MAGIC, 1, KIND_FORWARD_OUTPUT, len(data), 6)
    parts = []
    for index, size in enumerate((12, 32, 4, 1, 1, 1)):
        offset, count = struct.unpack_from("<II", data, HEADER.size + 8 * index)
        assert HEADER.size + 48 <= offset and offset + count * size <= len(data)
        assert offset % (16 if index == 4 else 4) == 0
        parts.append(data[offset : offset + count * size])
    items, table, shapes, text, blobs, error = parts
    results: list[Any] = []
    for at, size, flags in struct.iter_unpack("<III", items):
        assert at + size <= len(text) and flags in (0, 1)
        value = json.loads(text[at : at + size])
        results.append(value if flags else (value, []))
    for item, name_at, name_len, code, shape_at, dimensions, at, place in struct.iter_unpack("<8I", table):
        dtype, width = DTYPES[code]
        shape = struct.unpack_from(f"<{dimensions}I", shapes, 4 * shape_at)
        end = at + width * math.prod(shape)
        assert place == 0 and at % 16 == 0 and end <= len(blobs)
        name = None if name_len == 0xFFFF_FFFF else text[name_at : name_at + name_len].decode()
        results[item][1].append((name, dtype, shape, blobs[at:end]))
    assert not (error and results)
    return ForwardOutput(forward_id, forward_ns, results, json.loads(error) if error else None)
