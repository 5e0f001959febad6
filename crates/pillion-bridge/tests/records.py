"""Holds what the library does with step records against the Python code. `artifact.rs` runs it."""

from __future__ import annotations

import random
import struct
from typing import Any

from pillion import _step
from pillion._native import native

NEW = 1
SECTIONS = (4, 64, 4, 8, 4, 16)


def made(rng: random.Random, new: bool) -> bytes:
    """A step with something in some of its sections."""
    counts = [rng.choice((0, 0, 1, 3)) for _ in SECTIONS]
    counts[NEW] = rng.choice((1, 2)) if new else 0
    extra = rng.choice((0, 0, 1))
    offset = 32 + 8 * (len(SECTIONS) + extra)
    table = []
    for count, width in zip(counts, SECTIONS, strict=True):
        table += [offset, count]
        offset += count * width
    table += [offset, 0] * extra
    body = bytearray(rng.randbytes(sum(count * width for count, width in zip(counts, SECTIONS, strict=True))))
    if new:
        # Prompts that are there.
        start = table[2 * NEW] - 32 - 8 * (len(SECTIONS) + extra)
        for at in range(start, start + 64 * counts[NEW], 64):
            body[at + 4 : at + 12] = bytes(8)
    length = 32 + 8 * (len(SECTIONS) + extra) + len(body)
    head = struct.pack("<IHHIIQQ", _step.MAGIC, 1, 1, length, len(SECTIONS) + extra, rng.getrandbits(64), 0)
    return head + struct.pack(f"<{len(table)}I", *table) + body


def outcome(decode: Any, record: Any) -> object:
    """What is read, or what is wrong."""
    try:
        step = decode(record)
    except Exception as error:
        return type(error), str(error)
    assert type(step) is _step.Step
    return tuple(bytes(field) if isinstance(field, memoryview) else repr(field) for field in step)


def main() -> None:
    assert native is not None and _step.decode_step is not _step.python_decode_step
    rng = random.Random(5)
    read = 0
    for number in range(4000):
        record: Any = bytearray(made(rng, new=number % 8 == 0))
        for _ in range(rng.choice((0, 0, 1, 2))):
            at = rng.randrange(min(len(record), 96))
            record[at] = rng.choice((0, 1, 4, 255, rng.randrange(256)))
        if rng.random() < 0.1:
            del record[rng.randrange(len(record)) :]
        # Not only of bytes, though these are what every bridge gives.
        record = rng.choice((bytes, bytes, bytes, memoryview, bytearray))(record)
        expected = outcome(_step.python_decode_step, record)
        assert outcome(_step.decode_step, record) == expected, (bytes(record), expected)
        read += not isinstance(expected[0], type)  # type: ignore[index]
    assert 1000 < read < 3900, read
    # A view outlives whoever else knew the record.
    rows = _step.decode_step(made(random.Random(1), new=False)[:]).rows
    assert bytes(rows) == bytes(_step.python_decode_step(made(random.Random(1), new=False)).rows)
    for error in ("", '{"code": "internal"}', "d\u00e9j\u00e0 vu"):
        for tokens, logprobs, top in ((0, 0, 0), (3, 0, 0), (3, 3, 0), (2, 2, 5)):
            parts = (rng.randbytes(4 * tokens), rng.randbytes(4 * logprobs), rng.randbytes(12 * top))
            wanted = _step.python_encode_output(7, 1 << 40, *parts, error=error)
            assert _step.encode_output(7, 1 << 40, *parts, error=error) == wanted
    assert _step.encode_output(1, 2, error="x") == _step.python_encode_output(1, 2, error="x")
    print("equal")


main()
