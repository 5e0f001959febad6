"""Large tensors in memory that both processes map, beside the rings.

The layout is drawn in `crates/pillion-backend-worker/src/shm/pool.rs`. Inputs lie in one pool, into which the other
side copies; the array that a model gets is a view of it, and the place is the other side's again when the last view
has died. Results are copied into the other pool, where this side keeps account of what is taken.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from dataclasses import dataclass
from typing import Any, Final

from pillion._forward import Placed
from pillion._views import bytes_type, ctypes, view_of
from pillion.errors import StepRecordError
from pillion.runners._arrays import copy_array

__all__ = ["PoolShape", "TensorPool"]

_HEADER_LEN: Final = 4096
_ALIGN: Final = 64
_MIN_LEN: Final = 64 << 10
_WORD: Final = struct.Struct("<I")
_pack_word: Final = _WORD.pack_into


@dataclass(frozen=True, slots=True)
class PoolShape:
    """The sizes of a pool, as the other side told them."""

    places: int
    bytes: int

    @classmethod
    def from_json(cls, data: Any) -> PoolShape:
        """Reads the field of the `load` message."""
        shape = cls(int(data["places"]), int(data["bytes"]))
        if not 1 <= shape.places <= _HEADER_LEN // _WORD.size or shape.bytes < 1:
            raise StepRecordError(f"a pool of {shape.places} places in {shape.bytes} bytes")
        return shape


class TensorPool:
    """The worker's side of both pools."""

    def __init__(self, fds: list[int], shape: PoolShape) -> None:
        """Takes over the descriptors: pool of inputs, pool of results."""
        self._shape = shape
        self._maps: list[mmap.mmap] = []
        try:
            if len(fds) != 2:
                raise StepRecordError(f"{len(fds)} descriptors of pools came where 2 were expected")
            self._inputs, self._results = (self._map(fd) for fd in fds)
        finally:
            for fd in fds:
                os.close(fd)
        # By offset: (place, offset, length) of what the other side has not given back.
        self._taken: list[tuple[int, int, int]] = []
        self._unsent: list[int] = []

    def lend(self, place: int, offset: int, length: int) -> memoryview:
        """Read-only memory of an input, which is the sender's again when nobody views it any more."""
        if not 1 <= place <= self._shape.places or offset + length > self._shape.bytes:
            raise StepRecordError(f"a tensor of {length} bytes at {offset} in place {place} lies outside the pool")
        start = _HEADER_LEN + offset
        if ctypes is None:
            copied = memoryview(self._inputs[start : start + length])
            _Lease(self._inputs, place)
            return copied
        array = bytes_type(length).from_buffer(self._inputs, start)
        return view_of(array, _Lease(self._inputs, place))

    def put(self, array: Any) -> Placed | None:
        """Copies a numpy array of a result, if it is large and there is room."""
        length: int = array.nbytes
        if length < _MIN_LEN:
            return None
        found = self._room(length)
        if found is None:
            return None
        index, place, offset = found
        copy_array(self._results, _HEADER_LEN + offset, array)
        _pack_word(self._results, _WORD.size * (place - 1), 1)
        self._taken.insert(index, (place, offset, length))
        self._unsent.append(place)
        return Placed(place, offset)

    def sent(self) -> None:
        """The answer that names what was put has gone; the other side gives it back."""
        self._unsent.clear()

    def take_back(self) -> None:
        """What was put since the last answer was sent will not be part of one."""
        unsent, self._unsent = self._unsent, []
        self._taken = [taken for taken in self._taken if taken[0] not in unsent]

    def close(self) -> None:
        """Unmaps what nobody views. Closing twice is fine."""
        maps, self._maps = self._maps, []
        for mapped in maps:
            # A tensor that the model keeps keeps its mapping.
            with contextlib.suppress(BufferError):
                mapped.close()

    def _room(self, length: int) -> tuple[int, int, int] | None:
        """Before which extent there is room, the place and the offset."""
        word = _WORD.unpack_from
        if self._taken:
            self._taken = [taken for taken in self._taken if word(self._results, _WORD.size * (taken[0] - 1))[0]]
        if not self._taken:
            return (0, 1, 0) if length <= self._shape.bytes else None
        used = {place for place, _, _ in self._taken}
        place = next((place for place in range(1, self._shape.places + 1) if place not in used), None)
        if place is None:
            return None
        end = 0
        for index, (_, offset, taken) in enumerate(self._taken):
            if offset - end >= length:
                return index, place, end
            end = -(-(offset + taken) // _ALIGN) * _ALIGN
        return (len(self._taken), place, end) if end + length <= self._shape.bytes else None

    def _map(self, fd: int) -> mmap.mmap:
        size = os.fstat(fd).st_size
        wanted = _HEADER_LEN + self._shape.bytes
        if size != wanted:
            raise StepRecordError(f"a pool of {size} bytes where {wanted} were expected")
        mapped = mmap.mmap(fd, size)
        self._maps.append(mapped)
        return mapped


class _Lease:
    """Gives a place back when it dies."""

    __slots__ = ("_at", "_inputs")

    def __init__(self, inputs: mmap.mmap, place: int) -> None:
        self._inputs = inputs
        self._at = _WORD.size * (place - 1)

    def __del__(self) -> None:
        try:
            _pack_word(self._inputs, self._at, 0)
        except ValueError:
            # Nobody is left to be told once the map is closed. (For each tensor: `suppress` costs more than the rest.)
            return
