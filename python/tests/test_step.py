"""The step record: the layout that Rust pins, round trips, and damage."""

from __future__ import annotations

import random
import struct

import pytest

from pillion._step import HEADER, KIND_STEP, NO_TOKEN, ROW_SAMPLE, decode_step, encode_output
from pillion.errors import StepRecordError
from records import Output, StepRecord, decode_output, record, sequence, words


def test_the_layout_is_pinned() -> None:
    """The same bytes stand in `crates/pillion-core/src/step.rs`."""
    data = StepRecord(step_id=5, freed=[3], rows=[(1, 9, 1, ROW_SAMPLE)]).encode()
    assert data.hex() == (
        "504c4c4e"
        "0100"
        "0100"
        "64000000"
        "06000000"
        "0500000000000000"
        "0000000000000000"
        "5000000001000000"
        "5400000000000000"
        "5400000000000000"
        "5400000000000000"
        "5400000000000000"
        "5400000001000000"
        "03000000"
        "01000000090000000100000001000000"
    )
    step = decode_step(data)
    assert (step.step_id, list(step.freed), list(step.rows)) == (5, [3], [1, 9, 1, ROW_SAMPLE])


def test_the_fields_of_a_sequence_are_pinned() -> None:
    new = sequence(
        1, 0, 2, flags=1, temperature=0.5, top_p=0.25, top_k=7, min_p=0.125, seed=1 << 63, logprobs=4, max_len=9,
        repetition_penalty=1.5, presence_penalty=-2.0,
    )  # fmt: skip
    data = StepRecord(new=[new], prompts=[10, 11]).encode()
    assert data[80:144].hex() == (
        "01000000" "00000000" "02000000" "01000000"
        "0000003f" "0000803e" "07000000" "0000003e"
        "0000000000000080"
        "04000000" "09000000" "0000c03f" "000000c0"
        "0000000000000000"
    )  # fmt: skip
    assert decode_step(data).new == (new,)


def random_step(rng: random.Random) -> StepRecord:
    step = StepRecord(step_id=rng.getrandbits(64), freed=[rng.getrandbits(32) for _ in range(rng.randrange(5))])
    for _ in range(rng.randrange(4)):
        prompt = [rng.getrandbits(32) for _ in range(rng.randrange(9))]
        new = sequence(rng.getrandbits(32), len(step.prompts), len(prompt), seed=rng.getrandbits(64), top_p=0.5)
        step.new.append(new)
        step.prompts.extend(prompt)
    step.copies = [(rng.getrandbits(32), rng.getrandbits(32)) for _ in range(rng.randrange(3))]
    step.bitmask = [rng.getrandbits(32) for _ in range(rng.randrange(6))]
    step.rows = [
        (rng.getrandbits(32), rng.getrandbits(32), rng.getrandbits(32), rng.getrandbits(2))
        for _ in range(rng.randrange(20))
    ]
    return step


@pytest.mark.parametrize("seed", range(200))
def test_a_step_arrives_as_it_was_sent(seed: int) -> None:
    rng = random.Random(seed)
    sent = random_step(rng)
    kind = rng.choice([bytes, bytearray, memoryview])
    step = decode_step(kind(sent.encode(extra_sections=rng.randrange(3))))
    assert step.step_id == sent.step_id
    assert list(step.freed) == sent.freed
    assert list(step.new) == sent.new
    assert list(step.prompts) == sent.prompts
    assert list(zip(step.copies[::2], step.copies[1::2], strict=True)) == sent.copies
    assert list(step.bitmask) == sent.bitmask
    assert step.num_rows == len(sent.rows)
    assert [tuple(step.rows[i : i + 4]) for i in range(0, len(step.rows), 4)] == sent.rows


@pytest.mark.parametrize("seed", range(200))
def test_damage_is_an_error_or_another_record(seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(random_step(rng).encode())
    with pytest.raises(StepRecordError):
        decode_step(data[: rng.randrange(len(data))])
    for _ in range(40):
        damaged = bytearray(data)
        if rng.random() < 0.5:
            damaged[rng.randrange(min(len(data), 120))] ^= rng.randrange(1, 256)
        else:
            at = 12 + 4 * rng.randrange((HEADER.size - 12) // 4 + 12)
            damaged[at : at + 4] = words([rng.choice([rng.getrandbits(32), rng.randrange(200), 0xFFFF_FFFC])])
        try:
            step = decode_step(damaged)
            assert max(map(len, (step.freed, step.prompts, step.copies, step.bitmask, step.rows))) * 4 <= len(damaged)
        except StepRecordError as error:
            assert error.code in ("internal", "version_mismatch")
    with pytest.raises(StepRecordError):
        decode_step(rng.randbytes(rng.randrange(200)))


GOOD = StepRecord(step_id=1, rows=[(0, 0, 1, 1)]).encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "shorter than a header"),
        (b"XXXX" + GOOD[4:], "no step record"),
        (GOOD[:6] + b"\3\0" + GOOD[8:], "kind 3 where 1"),
        (GOOD + bytes(4), "its header says"),
        (record(KIND_STEP, 0, 0, [(0, b"")] * 5), "5 sections"),
        (GOOD[:12] + words([1 << 30]) + GOOD[16:], "sections"),
        (GOOD[:32] + words([1, 1]) + GOOD[40:], "section 0 (1 elements at byte 1) lies outside"),
        (GOOD[:32] + words([82, 1]) + GOOD[40:], "section 0"),
        (GOOD[:72] + words([80, 0xFFFF_FFFF]) + GOOD[80:], "section 5"),
        (StepRecord(new=[sequence(4, 1, 2)], prompts=[0, 0]).encode(), "the prompt of slot 4"),
        (StepRecord(new=[sequence(4, 0xFFFF_FFFF, 2)], prompts=[0, 0]).encode(), "the prompt of slot 4"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, said: str) -> None:
    with pytest.raises(StepRecordError, match="a step record cannot be read") as caught:
        decode_step(data)
    assert said in str(caught.value)
    assert caught.value.code == "internal"


def test_another_version_is_a_mismatch() -> None:
    with pytest.raises(StepRecordError, match="version 2, this side speaks 1") as caught:
        decode_step(GOOD[:4] + b"\2\0" + GOOD[6:])
    assert caught.value.code == "version_mismatch"


@pytest.mark.parametrize("seed", range(50))
def test_an_output_arrives_as_it_was_sent(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randrange(8)
    tokens = [rng.choice([rng.getrandbits(31), NO_TOKEN]) for _ in range(count)]
    logprobs = [-float(rng.randrange(64)) / 4 for _ in range(count)] if rng.random() < 0.5 else []
    top = [(rng.randrange(count), rng.getrandbits(32), -1.5) for _ in range(rng.randrange(4))] if count else []
    error = rng.choice(["", '{"code": "internal"}', '{"code": "ü"}'])
    sent = Output(rng.getrandbits(64), rng.getrandbits(64), tokens, logprobs, top, None)
    data = encode_output(
        sent.step_id,
        sent.forward_ns,
        words(tokens),
        struct.pack(f"<{len(logprobs)}f", *logprobs),
        b"".join(struct.pack("<IIf", *entry) for entry in top),
        error,
    )
    assert len(data) % 4 == 0
    received = decode_output(data)
    assert (received.error is not None) == bool(error)
    received.error = None
    assert received == sent
