"""Step records through memory that both processes map, with an eventfd as doorbell each way.

The layout of a ring is drawn in `crates/pillion-backend-worker/src/shm/ring.rs`. Nothing here is made per row: a record
is copied out as it is, so that views of it stay good for as long as anybody keeps them.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from dataclasses import dataclass
from typing import Any, Final

from pillion._native import native
from pillion._views import ctypes
from pillion.errors import PillionError, StepRecordError
from pillion.transports._base import Transport
from pillion.transports._pool import TensorPool

__all__ = ["RingShape", "ShmTransport"]

_HEADER_LEN: Final = 4096
_NUM_ENTRIES: Final = 4
_ENTRY_MASK: Final = _NUM_ENTRIES - 1
_ENTRY_LEN: Final = 64
_ENTRY: Final = struct.Struct("<QIIQ")
_KIND_RECORD: Final = 1
_KIND_END: Final = 2


@dataclass(frozen=True, slots=True)
class RingShape:
    """The sizes of a ring, as the other side told them."""

    slots: int
    slot_bytes: int

    @classmethod
    def from_json(cls, data: Any) -> RingShape:
        """Reads the fields of the `load` message."""
        shape = cls(int(data["slots"]), int(data["slotBytes"]))
        if not 1 <= shape.slots <= _NUM_ENTRIES or shape.slot_bytes < 1:
            raise StepRecordError(f"a ring of {shape.slots} slots of {shape.slot_bytes} bytes")
        return shape

    @property
    def size(self) -> int:
        """Bytes of the whole ring."""
        return _HEADER_LEN + self.slots * self.slot_bytes


class ShmTransport(Transport):
    """The worker's side of both rings."""

    def __init__(self, fds: list[int], steps: RingShape, answers: RingShape, pool: TensorPool | None = None) -> None:
        """Takes over the descriptors: ring of steps, ring of answers, doorbell of steps, doorbell of answers; and the
        pool."""
        self.pool = pool
        self._fds = list(fds)
        self._maps: list[mmap.mmap] = []
        self._rung = 0
        self._received = 0
        self._sent = 0
        self._step_slots, self._step_bytes = steps.slots, steps.slot_bytes
        self._answer_slots, self._answer_bytes = answers.slots, answers.slot_bytes
        try:
            if len(fds) != 4:
                raise StepRecordError(f"{len(fds)} descriptors came where 4 were expected")
            self._steps = self._map(fds[0], steps)
            self._answers = self._map(fds[1], answers)
            self._step_bell, self._answer_bell = fds[2:]
            if ctypes is not None and hasattr(native, "Rings"):
                self._use_native(steps, answers)
        except BaseException:
            self.close()
            raise

    # The two below are in the way of every step: each attribute and each object in them is a part of a microsecond.

    def receive(self) -> bytes | None:
        rung = self._rung
        if not rung:
            rung = os.eventfd_read(self._step_bell)
        self._rung = rung - 1
        sequence = self._received
        number, kind, length, offset = _ENTRY.unpack_from(self._steps, (sequence & _ENTRY_MASK) * _ENTRY_LEN)
        if (
            number != sequence
            or kind != _KIND_RECORD
            or length > self._step_bytes
            or offset != _HEADER_LEN + sequence % self._step_slots * self._step_bytes
        ):
            _unusual(sequence, number, kind, length, offset)
            return None
        self._received = sequence + 1
        return self._steps[offset : offset + length]

    def send(self, record: bytes) -> None:
        sequence = self._sent
        length = len(record)
        if length > self._answer_bytes:
            raise self._too_long(length)
        answers = self._answers
        offset = _HEADER_LEN + sequence % self._answer_slots * self._answer_bytes
        answers[offset : offset + length] = record
        _ENTRY.pack_into(answers, (sequence & _ENTRY_MASK) * _ENTRY_LEN, sequence, _KIND_RECORD, length, offset)
        self._sent = sequence + 1
        os.eventfd_write(self._answer_bell, 1)
        if self.pool is not None:
            self.pool.sent()

    def close(self) -> None:
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)
        for name in ("receive", "send"):
            self.__dict__.pop(name, None)
        maps, self._maps = self._maps, []
        for mapped in maps:
            # Whoever still has our `receive` keeps the memory.
            with contextlib.suppress(BufferError):
                mapped.close()
        if self.pool is not None:
            self.pool.close()

    def _use_native(self, steps: RingShape, answers: RingShape) -> None:
        """The same as `receive` and `send`, with fewer steps of Python's."""

        def ring(mapped: mmap.mmap, shape: RingShape, bell: int) -> tuple[Any, int, int, int]:
            memory = (ctypes.c_ubyte * shape.size).from_buffer(mapped)
            return memory, shape.slots, shape.slot_bytes, bell

        rings = native.Rings(
            ring(self._steps, steps, self._step_bell), ring(self._answers, answers, self._answer_bell), _unusual
        )
        put, pool = rings.send, self.pool

        def send(record: bytes) -> None:
            if not put(record):
                raise self._too_long(len(record))
            if pool is not None:
                pool.sent()

        self.receive = rings.receive  # type: ignore[method-assign]
        self.send = send  # type: ignore[method-assign]

    def _too_long(self, length: int) -> PillionError:
        if self.pool is not None:
            self.pool.take_back()
        return PillionError(
            "unsupported",
            f"an answer of {length} bytes is longer than the {self._answer_bytes} that the ring takes",
        )

    def _map(self, fd: int, shape: RingShape) -> mmap.mmap:
        size = os.fstat(fd).st_size
        if size != shape.size:
            raise StepRecordError(f"a ring of {size} bytes where {shape.size} were expected")
        mapped = mmap.mmap(fd, size)
        self._maps.append(mapped)
        return mapped


def _unusual(sequence: int, number: int, kind: int, length: int, offset: int) -> None:
    """What an entry means that is no record."""
    if number != sequence or kind != _KIND_END:
        raise StepRecordError(
            f"the ring of steps holds no record {sequence}, but number {number} of kind {kind} "
            f"({length} bytes at {offset})"
        )
