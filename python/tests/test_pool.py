"""Large tensors beside the rings: room, places, lifetimes, and a class over them."""

from __future__ import annotations

import gc
import mmap
import os
import struct
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pillion.errors import StepRecordError
from pillion.transports import _pool
from pillion.transports._pool import PoolShape, TensorPool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")

SHAPE = PoolShape(4, 1 << 20)
HEADER = 4096


class Peer:
    """What Rust does, with nothing of our own code in it."""

    def __init__(self, size: int = HEADER + SHAPE.bytes) -> None:
        self.fds = [os.memfd_create("inputs"), os.memfd_create("results")]
        for fd in self.fds:
            os.ftruncate(fd, size)
        self.inputs, self.results = (mmap.mmap(fd, size) for fd in self.fds)

    def put(self, place: int, offset: int, data: bytes) -> None:
        self.inputs[HEADER + offset : HEADER + offset + len(data)] = data
        struct.pack_into("<I", self.inputs, 4 * (place - 1), 1)

    def is_lent(self, place: int) -> bool:
        return bool(struct.unpack_from("<I", self.inputs, 4 * (place - 1))[0])

    def give_back(self, place: int) -> None:
        struct.pack_into("<I", self.results, 4 * (place - 1), 0)

    def read(self, offset: int, length: int) -> bytes:
        return self.results[HEADER + offset : HEADER + offset + length]

    def close(self) -> None:
        self.inputs.close()
        self.results.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def pool(peer: Peer) -> Iterator[TensorPool]:
    pool = TensorPool(peer.fds, SHAPE)
    yield pool
    pool.close()
    pool.close()


@pytest.mark.filterwarnings("ignore:The given:UserWarning")
def test_an_input_is_given_back_when_its_last_view_dies(peer: Peer, pool: TensorPool) -> None:
    data = np.arange(50_000, dtype="<i4").tobytes()
    peer.put(2, 4096, data)
    memory = pool.lend(2, 4096, len(data))
    assert memory.readonly
    array: Any = np.frombuffer(memory, dtype="<i4").reshape(100, 500)
    assert not array.flags.writeable
    views = [array[2:], memoryview(array)[2:], torch.from_numpy(array)[2:], array[5][7:]]
    del memory, array
    while views:
        gc.collect()
        assert peer.is_lent(2)
        assert np.asarray(views[-1]).ravel()[0] == (5 * 500 + 7 if len(views) == 4 else 1000)
        views.pop()
    assert not peer.is_lent(2)


def test_what_is_kept_never_changes_while_places_are_used_again(peer: Peer, pool: TensorPool) -> None:
    kept: list[tuple[np.ndarray[Any, Any], int]] = []
    for number in range(1000):
        free = next(place for place in (1, 2, 3, 4) if not peer.is_lent(place))
        offset = (free - 1) * (SHAPE.bytes // 4)
        peer.put(free, offset, np.full(100_000, number, dtype="<i2").tobytes())
        kept.append((np.frombuffer(pool.lend(free, offset, 200_000), dtype="<i2")[2:], number))
        assert all((view == said).all() for view, said in kept)
        if len(kept) == 4:
            kept.pop(number % 4)


def test_a_python_without_ctypes_copies(peer: Peer, pool: TensorPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pool, "ctypes", None)
    peer.put(1, 0, b"x" * 100)
    memory = pool.lend(1, 0, 100)
    assert not peer.is_lent(1) and memory.readonly and bytes(memory) == b"x" * 100


@pytest.mark.parametrize(
    ("place", "offset", "length"), [(0, 0, 8), (5, 0, 8), (1, SHAPE.bytes, 1), (1, 8, SHAPE.bytes)]
)
def test_a_place_outside_is_refused(pool: TensorPool, place: int, offset: int, length: int) -> None:
    with pytest.raises(StepRecordError, match="lies outside the pool"):
        pool.lend(place, offset, length)


def test_a_result_is_copied_while_there_is_room(peer: Peer, pool: TensorPool) -> None:
    large = np.arange(75_000, dtype=">i8")
    placed = pool.put(large)
    assert placed == (1, 0)
    assert peer.read(0, large.nbytes) == large.astype("<i8").tobytes()
    assert pool.put(np.zeros(10)) is None, "a small one travels in the record"
    assert pool.put(large) is None, "no room"
    strided = np.arange(80_000, dtype="i4").reshape(200, 400).T
    second = pool.put(strided)
    assert second is not None and second.place == 2 and second.offset % 64 == 0
    assert peer.read(second.offset, strided.nbytes) == np.ascontiguousarray(strided).tobytes()
    pool.sent()
    peer.give_back(1)
    assert pool.put(large) == (1, 0)
    pool.sent()
    peer.give_back(2)
    third = pool.put(strided)
    assert third is not None and third.place == 2


def test_what_was_not_sent_is_free_again(pool: TensorPool) -> None:
    whole = np.zeros(SHAPE.bytes, dtype="u1")
    assert pool.put(whole) == (1, 0)
    pool.take_back()
    assert pool.put(whole) == (1, 0)
    pool.sent()
    pool.take_back()
    assert pool.put(whole) is None


def test_places_run_out_before_room_does(pool: TensorPool) -> None:
    array = np.zeros(70_000, dtype="u1")
    assert [pool.put(array) is not None for _ in range(5)] == [True, True, True, True, False]


@pytest.mark.parametrize("data", [{"places": 0, "bytes": 9}, {"places": 5000, "bytes": 9}, {"places": 1, "bytes": 0}])
def test_a_shape_that_cannot_be_is_refused(data: dict[str, int]) -> None:
    with pytest.raises(StepRecordError, match="a pool of"):
        PoolShape.from_json(data)


def test_a_pool_of_another_size_is_refused_and_its_files_closed(peer: Peer) -> None:
    with pytest.raises(StepRecordError, match="were expected"):
        TensorPool(peer.fds, PoolShape(4, 1 << 21))
    for fd in peer.fds:
        with pytest.raises(OSError):
            os.fstat(fd)
    with pytest.raises(StepRecordError, match="1 descriptors"):
        TensorPool([os.memfd_create("one")], SHAPE)


def test_closing_leaves_what_is_viewed(peer: Peer, pool: TensorPool) -> None:
    peer.put(1, 0, b"y" * 100)
    memory = pool.lend(1, 0, 100)
    pool.close()
    assert bytes(memory) == b"y" * 100
    del memory
    gc.collect()
