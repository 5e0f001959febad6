"""The contract between the runner, which knows slots and tokens, and a tier, which knows how a model keeps its
cache."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Batch", "Geometry", "Tier"]


class Geometry(NamedTuple):
    """Shape of one model's cache and output, as seen in a first forward pass."""

    num_layers: int
    num_kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    vocab_size: int

    @property
    def bytes_per_token(self) -> int:
        """Bytes of cache for one position of one sequence."""
        return self.num_layers * self.num_kv_heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


class Batch(NamedTuple):
    """The rows of one step; one entry per row unless said otherwise. All rows are of different slots."""

    slots: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    sampled: NDArray[np.bool_]
    """Rows whose last position's logits are wanted."""
    pool: torch.Tensor
    """Token ids, [slots, positions], on the model's device."""

    @property
    def ends(self) -> NDArray[np.int64]:
        """The first position after each row."""
        return self.starts + self.counts


class Tier(Protocol):
    """Keeps the cache of every slot and runs the model over rows."""

    name: str

    def enter(self, slot: int, max_len: int) -> None:
        """Makes room for a sequence of at most `max_len` positions."""

    def leave(self, slot: int, doubtful: int) -> None:
        """Takes the room back; a slot that has none is fine. What was written to the first `doubtful` positions may
        not be finite."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Gives `target` the first `length` positions of `source`."""

    def forward(self, batch: Batch) -> torch.Tensor:
        """Runs the rows; gives the logits of the sampled ones, in the order of the rows, [sampled, vocabulary]."""

    def close(self) -> None:
        """Gives the memory back."""
