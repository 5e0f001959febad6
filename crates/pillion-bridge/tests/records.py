"""Holds what the library does with records against the Python code. `artifact.rs` runs it."""

from __future__ import annotations

import random
import struct
from typing import Any

from pillion import _forward, _step
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


def made_forward(rng: random.Random) -> bytes:
    """A forward with a few items and tensors, some of them in places."""
    values = (b"null", b"7", b'{"a":[1,"\xc3\xbc"]}', b'"\\ud800"', b"[[]]", b" 1", b"1 ", b"", b"nul", b"NaN")
    text, items, tensors, shapes, data = b"", b"", b"", b"", b""
    num_items = rng.randrange(4)
    for _ in range(num_items):
        value = rng.choice(values[: rng.choice((5, 5, 10))])
        items += struct.pack("<3I", len(text), len(value), 0)
        text += value
    for _ in range(rng.randrange(3) if num_items else 0):
        name = rng.choice((None, b"", b"x", "gr\u00f6\u00dfe".encode()))
        code = rng.randrange(1, 12)
        shape = [rng.randrange(4) for _ in range(rng.randrange(4))]
        place = rng.choice((0, 0, 3))
        size = _forward.DTYPES[code][1]
        for dimension in shape:
            size *= dimension
        length = 0xFFFFFFFF if name is None else len(name)
        at = 16 * rng.randrange(9) if place else len(data)
        tensors += struct.pack(
            "<8I", rng.randrange(num_items), len(text), length, code, len(shapes) // 4, len(shape), at, place
        )
        text += name or b""
        shapes += struct.pack(f"<{len(shape)}I", *shape)
        data += b"" if place else rng.randbytes(size) + bytes(-size % 16)
    table, offset, body = [], 32 + 8 * 5, b""
    for part, width, align in ((items, 12, 4), (tensors, 32, 4), (shapes, 4, 4), (text, 1, 4), (data, 1, 16)):
        body += bytes(-(offset + len(body)) % align)
        table += [offset + len(body), len(part) // width]
        body += part
    head = struct.pack("<IHHIIQQ", _step.MAGIC, 1, 2, 72 + len(body), 5, rng.getrandbits(64), 0)
    return head + struct.pack("<10I", *table) + body


def forward_outcome(decode: Any, record: Any) -> object:
    """What is read, or what is wrong."""
    try:
        forward = decode(record)
    except Exception as error:
        return type(error), str(error)
    assert type(forward) is _forward.Forward
    assert all(type(tensor) is _forward.Tensor for tensor in forward.tensors)
    return repr(forward)


def made_result(rng: random.Random) -> _forward.Result:
    """A result with a few tensors, most of them in places."""
    tensors = []
    for _ in range(rng.randrange(3)):
        data = rng.randbytes(rng.randrange(20))
        memory = rng.choice((_forward.Placed(rng.randrange(1, 9), 64), _forward.Placed(2, 0), data, memoryview(data)))
        shape = tuple(rng.randrange(1 << 20) for _ in range(rng.randrange(3)))
        name = rng.choice((None, "", "x", "gr\u00f6\u00dfe"))
        tensors.append((name, rng.choice(list(_forward.DTYPES.values()))[0], shape, memory))
    return _forward.Result(rng.choice(("null", "7", '"\u00fc"', "")), rng.random() < 0.2, tuple(tensors))


def forwards(rng: random.Random) -> None:
    assert _forward.decode_forward is not _forward.python_decode_forward
    read = 0
    for _ in range(6000):
        record: Any = bytearray(made_forward(rng))
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            record[rng.randrange(len(record))] = rng.choice((0, 1, 4, 255, rng.randrange(256)))
        if rng.random() < 0.05:
            del record[rng.randrange(len(record)) :]
        record = rng.choice((bytes, bytes, bytes, memoryview, bytearray))(record)
        expected = forward_outcome(_forward.python_decode_forward, record)
        assert forward_outcome(_forward.decode_forward, record) == expected, (bytes(record), expected)
        read += isinstance(expected, str)
    assert 2000 < read < 5900, read
    for _ in range(2000):
        results = [made_result(rng) for _ in range(rng.randrange(4))]
        number, ns = rng.getrandbits(64), rng.getrandbits(64)
        wanted = _forward.python_encode_forward_output(number, ns, results)
        assert _forward.encode_forward_output(number, ns, iter(results)) == wanted, results
        error = rng.choice(('{"code": "internal"}', "d\u00e9j\u00e0 vu"))
        wanted = _forward.python_encode_forward_output(number, 0, error=error)
        assert _forward.encode_forward_output(number, 0, error=error) == wanted
    for bad in (_forward.Result("\ud800"), _forward.Result("7", tensors=((None, "uint8", (1 << 32,), b""),))):
        kinds = []
        for encode in (_forward.python_encode_forward_output, _forward.encode_forward_output):
            try:
                encode(1, 2, [bad])
            except Exception as error:
                kinds.append(type(error))
        assert len(kinds) == 2 and kinds[0] is kinds[1], kinds


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
    forwards(random.Random(6))
    print("equal")


main()
