"""The worker's side of the shared-memory rings, against a peer that writes and reads the bytes by hand."""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pillion._step import decode_step
from pillion.errors import PillionError, StepRecordError
from pillion.transports import Transport
from pillion.transports._shm import RingShape, ShmTransport
from records import StepRecord, sequence

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files and eventfds are Linux's")

SHAPE = RingShape(2, 4096)
ENTRY = struct.Struct("<QIIQ")


class Peer:
    """What Rust does, with nothing of our own code in it."""

    def __init__(self, size: int = 4096 + 2 * 4096) -> None:
        files = [os.memfd_create("steps"), os.memfd_create("answers")]
        for fd in files:
            os.ftruncate(fd, size)
        self.bells = [os.eventfd(0), os.eventfd(0)]
        self.steps, self.answers = (mmap.mmap(fd, size) for fd in files)
        # The transport owns these.
        self.fds = [*files, *(os.dup(bell) for bell in self.bells)]
        self.pushed = 0
        self.popped = 0

    def push(self, record: bytes, **changes: int) -> None:
        self.put(record, **changes)
        os.eventfd_write(self.bells[0], 1)

    def put(self, record: bytes, **changes: int) -> None:
        n = self.pushed
        offset = 4096 + n % 2 * 4096
        self.steps[offset : offset + len(record)] = record
        entry = {"number": n, "kind": 1, "length": len(record), "offset": offset, **changes}
        ENTRY.pack_into(self.steps, n % 4 * 64, *entry.values())
        self.pushed += 1

    def pop(self) -> bytes:
        n = self.popped
        number, kind, length, offset = ENTRY.unpack_from(self.answers, n % 4 * 64)
        assert (number, kind, offset) == (n, 1, 4096 + n % 2 * 4096)
        self.popped += 1
        return self.answers[offset : offset + length]

    def close(self) -> None:
        self.steps.close()
        self.answers.close()
        for bell in self.bells:
            os.close(bell)


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def transport(peer: Peer) -> Iterator[ShmTransport]:
    transport = ShmTransport(peer.fds, SHAPE, SHAPE)
    yield transport
    transport.close()


@pytest.mark.filterwarnings("ignore:The given:UserWarning")
def test_what_is_kept_of_a_step_never_changes(peer: Peer, transport: ShmTransport) -> None:
    """Rows and prompts are views of the record, which the ring's next records must not reach."""
    kept: list[tuple[list[int], memoryview, Any, Any]] = []
    for number in range(1000):
        prompt = list(range(number, number + 40))
        new = sequence(0, 0, len(prompt))
        peer.push(StepRecord(step_id=number, freed=[0], new=[new], prompts=prompt).encode())
        record = transport.receive()
        assert record is not None
        ids = decode_step(record).prompts
        array = np.frombuffer(ids, dtype=np.uint32)
        kept.append((prompt[2:], ids[2:], array[2:], torch.frombuffer(ids, dtype=torch.int32)[2:]))
        transport.send(b"done")
        assert peer.pop() == b"done"
    transport.close()
    for prompt, ids, array, tensor in kept:
        assert ids.tolist() == array.tolist() == tensor.tolist() == prompt


def test_records_pass_both_ways_two_at_a_time(peer: Peer, transport: ShmTransport) -> None:
    assert isinstance(transport, Transport)
    for n in range(0, 600, 2):
        a, b = bytes([n % 251]) * (n % 4096), b"b" * 4096
        peer.push(a)
        peer.push(b)
        assert transport.receive() == a
        transport.send(b + b"")
        assert transport.receive() == b
        transport.send(a)
        assert os.eventfd_read(peer.bells[1]) == 2
        assert (peer.pop(), peer.pop()) == (b, a)


def test_one_ring_for_two_records_is_enough(peer: Peer, transport: ShmTransport) -> None:
    peer.put(b"a")
    peer.put(b"b")
    os.eventfd_write(peer.bells[0], 2)
    assert [transport.receive(), transport.receive()] == [b"a", b"b"]


def test_a_view_that_is_kept_never_changes(peer: Peer, transport: ShmTransport) -> None:
    peer.push(struct.pack("<4I", 1, 2, 3, 4))
    record = transport.receive()
    assert record is not None
    kept = memoryview(record).cast("I")[2:]
    transport.send(b"")
    for n in range(1000):
        peer.push(struct.pack("<I", n) * 700)
        assert transport.receive() is not None
        transport.send(b"")
    transport.close()
    assert kept.tolist() == [3, 4]


def test_the_end_is_none(peer: Peer, transport: ShmTransport) -> None:
    peer.push(b"a")
    peer.push(b"", kind=2, offset=4096)
    assert transport.receive() == b"a"
    assert transport.receive() is None


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 1},
        {"number": 2**64 - 1},
        {"kind": 0},
        {"kind": 3},
        {"length": 4097},
        {"length": 2**32 - 1},
        {"offset": 0},
        {"offset": 8192},
        {"offset": 2**64 - 8},
    ],
)
def test_an_entry_that_cannot_be_is_refused(peer: Peer, transport: ShmTransport, changes: dict[str, int]) -> None:
    peer.push(b"a", **changes)
    with pytest.raises(StepRecordError, match="holds no record 0"):
        transport.receive()


def test_an_answer_that_is_too_long_is_refused_and_the_next_one_passes(peer: Peer, transport: ShmTransport) -> None:
    with pytest.raises(PillionError, match="4097 bytes is longer than the 4096") as caught:
        transport.send(bytes(4097))
    assert caught.value.code == "unsupported"
    transport.send(bytes(4096))
    assert os.eventfd_read(peer.bells[1]) == 1
    assert peer.pop() == bytes(4096)


@pytest.mark.parametrize(
    ("size", "num_fds", "what"),
    [(4096 + 4096, 4, "a ring of 8192 bytes where 12288"), (4096 + 3 * 4096, 4, "16384"), (12288, 3, "3 descriptors")],
)
def test_what_does_not_fit_is_refused_and_nothing_is_kept(size: int, num_fds: int, what: str) -> None:
    peer = Peer(size)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(StepRecordError, match=what):
        ShmTransport(peer.fds[:num_fds], SHAPE, SHAPE)
    after = set(os.listdir("/proc/self/fd"))
    assert len(before - after) == num_fds, "what was handed over is closed"
    for fd in peer.fds[num_fds:]:
        os.close(fd)
    peer.close()


@pytest.mark.parametrize(("slots", "slot_bytes"), [(0, 1), (5, 1), (2, 0)])
def test_a_shape_that_cannot_be_is_refused(slots: int, slot_bytes: int) -> None:
    with pytest.raises(StepRecordError, match="a ring of"):
        RingShape.from_json({"slots": slots, "slotBytes": slot_bytes})


def test_close_gives_everything_back_and_may_be_repeated() -> None:
    def held() -> tuple[int, int]:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            return len(os.listdir("/proc/self/fd")), sum("memfd:" in line for line in maps)

    before = held()
    for _ in range(20):
        peer = Peer()
        transport = ShmTransport(peer.fds, SHAPE, SHAPE)
        transport.close()
        transport.close()
        peer.close()
    assert held() == before
