"""The Rust side of the step record, for tests: writes steps, reads outputs."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

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
