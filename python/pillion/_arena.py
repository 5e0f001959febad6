"""Where in the KV cache each slot's tokens lie: extents of one long line of token places.

Pure bookkeeping; knows neither tensors nor models. As long as there is room, extents begin at multiples of
`stride`, so that the caches of neighbouring slots form one regular view. When room is short, everything is packed
tight instead: whatever sum of lengths fits `capacity` can always be placed.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Arena", "Move"]


class Move(NamedTuple):
    """The first places of a slot's extent change; `target` is never above `source`."""

    slot: int
    source: int
    target: int


class Arena:
    """An allocator of extents by slot, lowest place first."""

    def __init__(self, capacity: int, stride: int) -> None:
        if not 0 < stride <= capacity:
            raise ValueError(f"a stride of {stride} in {capacity} places")
        self.capacity = capacity
        self.stride = stride
        # slot -> (offset, size, wanted), in the order of the offsets.
        self._extents: dict[int, tuple[int, int, int]] = {}

    def offset(self, slot: int) -> int:
        """Where the slot's extent begins."""
        return self._extents[slot][0]

    def size(self, slot: int) -> int:
        """How many places the slot's extent has; at least what it was promised."""
        return self._extents[slot][1]

    def promised(self, slot: int) -> int:
        """How many places the slot asked for."""
        return self._extents[slot][2]

    def __contains__(self, slot: int) -> bool:
        return slot in self._extents

    def place(self, slot: int, wanted: int) -> int | None:
        """Gives `slot` an extent of `wanted` places; None if there is no gap for it."""
        regular = -(-wanted // self.stride) * self.stride
        found = self._gap(regular, self.stride)
        size = regular
        if found is None:
            size = wanted
            found = self._gap(wanted, 1)
        if found is None:
            return None
        self._extents[slot] = (found, size, wanted)
        self._extents = dict(sorted(self._extents.items(), key=lambda item: item[1][0]))
        return found

    def free(self, slot: int) -> None:
        """Gives the slot's places back; a slot without an extent is fine."""
        self._extents.pop(slot, None)

    def compact(self) -> list[Move]:
        """Packs all extents tight at the beginning. The moves must be done in the order given."""
        moves = []
        end = 0
        for slot, (offset, _, wanted) in self._extents.items():
            if offset != end:
                moves.append(Move(slot, offset, end))
            self._extents[slot] = (end, wanted, wanted)
            end += wanted
        return moves

    def _gap(self, size: int, align: int) -> int | None:
        end = 0
        for offset, taken, _ in self._extents.values():
            if offset - end >= size:
                return end
            end = -(-(offset + taken) // align) * align
        return end if end + size <= self.capacity else None
