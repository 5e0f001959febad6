"""The forward record: the layout that Rust pins, round trips, and damage."""

from __future__ import annotations

import json
import math
import random
import struct

import pytest

from pillion._forward import DTYPES, Result, decode_forward, encode_forward_output, failed
from pillion._step import HEADER
from pillion.errors import StepRecordError
from records import StepRecord, Tensor, decode_forward_output, decode_output, encode_forward, words

GOOD = encode_forward(5, [({"a": 1}, [("xy", "int16", (1, 2), b"\1\0\2\0")])])


def test_the_layout_is_pinned() -> None:
    """The same bytes stand in `crates/pillion-core/src/forward/tests.rs`."""
    assert GOOD.hex() == (
        "504c4c4e01000200a00000000500000005000000000000000000000000000000"
        "4800000001000000540000000100000074000000020000007c00000009000000"
        "9000000010000000000000000700000000000000000000000700000002000000"
        "040000000000000002000000000000000000000001000000020000007b226122"
        "3a317d7879000000000000000000000001000200000000000000000000000000"
    )
    forward = decode_forward(GOOD)
    assert (forward.forward_id, forward.items) == (5, [{"a": 1}])
    assert forward.tensors == [(0, "xy", "int16", (1, 2), 144, 0)]


def random_tensor(rng: random.Random) -> Tensor:
    dtype, width = rng.choice(list(DTYPES.values()))
    shape = tuple(rng.randrange(4) for _ in range(rng.randrange(4)))
    return rng.choice([None, "", "x", "größe", "🌍"]), dtype, shape, rng.randbytes(math.prod(shape) * width)


def random_items(rng: random.Random) -> list[tuple[object, list[Tensor]]]:
    values = [None, 1.5, "text", "ü🌍", [1, [2]], {"a": {"b": "c"}}, ""]
    return [
        (rng.choice(values), [random_tensor(rng) for _ in range(rng.choice([0, 0, 1, 3]))])
        for _ in range(rng.randrange(5))
    ]


@pytest.mark.parametrize("seed", range(200))
def test_a_forward_arrives_as_it_was_sent(seed: int) -> None:
    rng = random.Random(seed)
    items = random_items(rng)
    number = rng.getrandbits(64)
    record = encode_forward(number, items)
    forward = decode_forward(rng.choice([bytes, bytearray, memoryview])(record))
    assert forward.forward_id == number
    assert forward.items == [value for value, _ in items]
    sent = [(index, *tensor) for index, (_, tensors) in enumerate(items) for tensor in tensors]
    widths = dict(DTYPES.values())
    got = [
        (t.item, t.name, t.dtype, t.shape, record[t.offset : t.offset + math.prod(t.shape) * widths[t.dtype]])
        for t in forward.tensors
    ]
    assert got == sent


@pytest.mark.parametrize("seed", range(200))
def test_damage_is_an_error_or_another_record(seed: int) -> None:
    rng = random.Random(seed)
    data = encode_forward(1, random_items(rng))
    with pytest.raises(StepRecordError):
        decode_forward(data[: rng.randrange(len(data))])
    for _ in range(40):
        damaged = bytearray(data)
        if rng.random() < 0.5:
            damaged[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        else:
            at = HEADER.size + 4 * rng.randrange((len(data) - HEADER.size) // 4)
            damaged[at : at + 4] = words([rng.choice([rng.getrandbits(32), rng.randrange(64), 0xFFFF_FFFF])])
        try:
            forward = decode_forward(damaged)
        except StepRecordError as error:
            assert error.code in ("internal", "version_mismatch")
            continue
        widths = dict(DTYPES.values())
        for tensor in forward.tensors:
            assert tensor.offset + math.prod(tensor.shape) * widths[tensor.dtype] <= len(damaged)
            assert tensor.item < len(forward.items)
    with pytest.raises(StepRecordError):
        decode_forward(rng.randbytes(rng.randrange(200)))


def changed(word: int, value: int) -> bytes:
    """The good record with one word of its only tensor changed."""
    at = struct.unpack_from("<I", GOOD, HEADER.size + 8)[0] + 4 * word
    return GOOD[:at] + words([value]) + GOOD[at + 4 :]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "shorter than a header"),
        (b"XXXX" + GOOD[4:], "no step record"),
        (StepRecord().encode(), "kind 1 where 2"),
        (GOOD + bytes(4), "its header says"),
        (GOOD[:12] + words([4]) + GOOD[16:], "4 sections"),
        (GOOD[:12] + words([1 << 30]) + GOOD[16:], "sections"),
        (GOOD[:32] + words([0]) + GOOD[36:], "section 0 (1 elements at byte 0)"),
        (GOOD[:68] + words([0xFFFF_FFFF]) + GOOD[72:], "section 4"),
        (changed(0, 1), "a tensor of item 1 of 1"),
        (changed(1, 99), "2 at 99 lie outside"),
        (changed(3, 0), "dtype 0"),
        (changed(3, 12), "dtype 12"),
        (changed(4, 1), "2 at 1 lie outside"),
        (changed(5, 33), "33 dimensions"),
        (changed(6, 8), "a tensor at 8"),
        (changed(6, 16), "at 16 lies outside"),
        (GOOD.replace(b'{"a":1}', b'{"a":1 '), "an item is no JSON"),
        (GOOD.replace(b'{"a":1}', b'{"\xff":1}'), "not UTF-8"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, said: str) -> None:
    with pytest.raises(StepRecordError, match="a step record cannot be read") as caught:
        decode_forward(data)
    assert said in str(caught.value)
    assert caught.value.code == "internal"


def test_another_version_is_a_mismatch() -> None:
    with pytest.raises(StepRecordError, match="version 2, this side speaks 1") as caught:
        decode_forward(GOOD[:4] + b"\2\0" + GOOD[6:])
    assert caught.value.code == "version_mismatch"


@pytest.mark.parametrize("seed", range(100))
def test_an_output_arrives_as_it_was_sent(seed: int) -> None:
    rng = random.Random(seed)
    results, sent = [], list[object]()
    for value, tensors in random_items(rng):
        if rng.random() < 0.3:
            results.append(Result('{"code":"internal"}', failed=True))
            sent.append({"code": "internal"})
        else:
            blobs = [(n, d, s, rng.choice([bytes, memoryview])(b)) for n, d, s, b in tensors]
            results.append(Result(json.dumps(value, ensure_ascii=False), tensors=tuple(blobs)))
            sent.append((value, tensors))
    output = decode_forward_output(encode_forward_output(rng.getrandbits(64), 7, results))
    assert (output.forward_ns, output.error) == (7, None)
    assert output.results == sent


def test_a_whole_error_has_no_results() -> None:
    output = decode_forward_output(encode_forward_output(3, 0, error='{"code":"ü"}'))
    assert (output.forward_id, output.results, output.error) == (3, [], {"code": "ü"})


def test_a_failure_is_of_the_records_own_kind() -> None:
    assert decode_forward_output(failed(GOOD, "{}")).forward_id == 5
    assert decode_forward_output(failed(GOOD[:24], "{}")).forward_id == 5
    assert decode_output(failed(StepRecord(step_id=9).encode(), "{}")).step_id == 9
    for damaged in (b"", b"PLLN", GOOD[:20]):
        failed(damaged, "{}")
