"""The tier `slots`: all rows of a step, prefill and decode, in one forward pass without any padding.

The model sees one text of all the rows' tokens, each with its own position. Its linear layers do not care. Where it
attends, our attention function stands in for the model's: it finds the keys and values of each row in one cache,
the arena, and attends row by row in prefill and, in decode, over runs of neighbouring slots at once, as views of
the cache. Nothing is gathered, and nothing is copied but the step's own keys and values.

Knows the model only through transformers' attention interface; whether that suffices for a model is found out at
load, by comparing logits (`pillion.runners._probe`).
"""

from __future__ import annotations

import inspect
import mmap
import sys
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AttentionInterface

from pillion._arena import Arena
from pillion.runners._attention import Chunk, Plan, Run, SlotCache, attend
from pillion.runners._tier import Batch, Geometry

__all__ = ["ATTENTION", "SlotTier"]

ATTENTION: Final = "pillion_slots"
"""The name of our attention function in transformers' registry."""


class RunPlace(NamedTuple):
    """Decode rows whose extents lie at equal distances."""

    first: int
    """Index of its first row in the packed text."""
    rows: int
    offset: int
    distance: int


class Order(NamedTuple):
    """How the rows of a batch stand in the packed text: decode rows by their place in the cache, then prefill rows."""

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]
    """Where each row's extent begins, in packed order."""
    runs: list[RunPlace]


class SlotTier:
    """Keeps every slot's keys and values in one arena per layer."""

    name = "slots"

    def __init__(self, model: Any, geometry: Geometry, arena: Arena, device: torch.device) -> None:
        self._model = model
        self._arena = arena
        self._device = device
        self._vocab_size = geometry.vocab_size
        places, heads = arena.capacity, geometry.num_kv_heads
        self._keys = _zeros((geometry.num_layers, heads, places, geometry.key_dim), geometry.dtype, device)
        self._values = _zeros((geometry.num_layers, heads, places, geometry.value_dim), geometry.dtype, device)
        self._cache = SlotCache(self._keys, self._values)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        # Decode runs stay the same from step to step until a sequence enters or leaves.
        self._version = 0
        self._known: tuple[int, bytes, Order] | None = None
        AttentionInterface.register(ATTENTION, attend)
        model.set_attn_implementation(ATTENTION)
        for module in model.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.pillion_cache = self._cache

    def enter(self, slot: int, max_len: int) -> None:
        """Gives the slot its extent, packing the others tight if there is no gap."""
        self._version += 1
        if self._arena.place(slot, max_len) is not None:
            return
        for move in self._arena.compact():
            length = self._arena.promised(move.slot)
            for cache in (self._keys, self._values):
                moved = cache[:, :, move.source : move.source + length].clone()
                cache[:, :, move.target : move.target + length] = moved
        if self._arena.place(slot, max_len) is None:
            raise MemoryError(f"the KV cache of {self._arena.capacity} tokens has no room for {max_len} more")

    def leave(self, slot: int, doubtful: int) -> None:
        """Frees the slot's extent. What stays there is masked when a view covers it later, but only finite values
        can be masked, so others are wiped."""
        if slot not in self._arena:
            return
        self._version += 1
        if doubtful:
            begin = self._arena.offset(slot)
            self._keys[:, :, begin : begin + doubtful] = 0
            self._values[:, :, begin : begin + doubtful] = 0
        self._arena.free(slot)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies places from one extent to another."""
        begin, end = self._arena.offset(source), self._arena.offset(target)
        for cache in (self._keys, self._values):
            cache[:, :, end : end + length] = cache[:, :, begin : begin + length]

    def forward(self, batch: Batch) -> torch.Tensor:
        """One pass over all rows."""
        order, offsets, runs = self._order(batch)
        slots, starts, counts = batch.slots[order], batch.starts[order], batch.counts[order]
        num_decode = sum(run.rows for run in runs)
        firsts = np.cumsum(counts) - counts
        positions = starts if num_decode == len(order) else _ranges(starts, counts)
        per_row = np.stack((slots * batch.pool.shape[1], offsets))
        columns = positions + (per_row if num_decode == len(order) else np.repeat(per_row, counts, axis=1))
        lasts = (firsts + counts - 1)[batch.sampled[order]]
        # One transfer: token places, cache places, positions, and which of them are the last of their rows.
        packed = np.concatenate((columns[0], columns[1], positions, lasts))
        on_device = torch.from_numpy(packed).to(self._device, non_blocking=True)
        num_tokens = len(positions)
        token_index, kv_index, position_ids = on_device[: 3 * num_tokens].view(3, num_tokens)
        last_index = on_device[3 * num_tokens :]
        parts: list[Run | Chunk] = []
        for run in runs:
            rows = slice(run.first, run.first + run.rows)
            parts.append(Run(self._keys, self._values, rows, starts[rows] + 1, run.offset, run.distance))
        for row in range(num_decode, len(order)):
            tokens = slice(int(firsts[row]), int(firsts[row] + counts[row]))
            parts.append(Chunk(self._keys, self._values, tokens, int(starts[row]), int(offsets[row])))
        self._cache.plan = Plan(kv_index, parts)
        ids = batch.pool.view(-1).index_select(0, token_index).long()
        logits = self._run(ids, position_ids, last_index)
        if not len(lasts):
            return logits
        # Back from the packed order to the order of the rows.
        sampled_order = order[batch.sampled[order]]
        if (sampled_order[1:] > sampled_order[:-1]).all():
            return logits
        return logits[torch.from_numpy(np.argsort(sampled_order)).to(self._device)]

    def close(self) -> None:
        """Drops the arena and the model."""
        self._model = None
        self._cache = None  # type: ignore[assignment]
        self._keys = self._values = torch.empty(0)

    def _run(self, ids: torch.Tensor, position_ids: torch.Tensor, last_index: torch.Tensor) -> torch.Tensor:
        """Runs the model over the packed text; gives the logits at `last_index`."""
        num_tokens = len(ids)
        decoding = all(isinstance(part, Run) for part in self._cache.plan.parts)
        shape = (num_tokens, 1) if decoding else (1, num_tokens)
        keywords: dict[str, Any] = {}
        chosen = self._keeps_logits and not decoding
        if chosen:
            # An empty choice would ask for an empty product; one row is thrown away instead.
            keywords["logits_to_keep"] = last_index if len(last_index) else 1
        output = self._model(
            input_ids=ids.view(shape),
            position_ids=position_ids.view(shape),
            past_key_values=self._cache,
            use_cache=True,
            **keywords,
        )
        logits: torch.Tensor = output.logits.flatten(0, 1)
        if not len(last_index):
            return logits[:0]
        return logits if chosen or len(last_index) == num_tokens else logits[last_index]

    def _order(self, batch: Batch) -> Order:
        decode = batch.counts == 1
        if not decode.all():
            return self._new_order(batch, decode)
        slots = batch.slots.tobytes()
        if self._known is None or self._known[:2] != (self._version, slots):
            self._known = (self._version, slots, self._new_order(batch, decode))
        return self._known[2]

    def _new_order(self, batch: Batch, decode: NDArray[np.bool_]) -> Order:
        offsets = np.array([self._arena.offset(slot) for slot in batch.slots.tolist()], dtype=np.int64)
        rows = np.lexsort((offsets, ~decode))
        decoding = rows[: np.count_nonzero(decode)]
        return Order(
            rows, offsets[rows], _runs(batch.slots[decoding].tolist(), batch.ends[decoding].tolist(), self._arena)
        )


def _runs(slots: list[int], lengths: list[int], arena: Arena) -> list[RunPlace]:
    """Cuts rows, ordered by place, into runs of equal extents at equal distances, each of which can be one view. A
    view is never longer than an extent, so that it shows no other sequence."""
    runs: list[RunPlace] = []
    for row, slot in enumerate(slots):
        offset, size = arena.offset(slot), arena.size(slot)
        if runs:
            last = runs[-1]
            distance = offset - arena.offset(slots[row - 1])
            regular = last.rows == 1 or distance == last.distance
            same = size == arena.size(slots[last.first])
            # What a short row computes in vain beside a long one should cost less than a call of its own.
            alike = abs(lengths[row] - lengths[last.first]) <= 1024
            if regular and same and alike:
                runs[-1] = RunPlace(last.first, last.rows + 1, last.offset, distance)
                continue
        runs.append(RunPlace(row, 1, offset, size))
    return runs


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """`start, start + 1, ..` for each row, one after the other."""
    firsts = np.cumsum(counts) - counts
    ranges: NDArray[np.int64] = np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(starts - firsts, counts)
    return ranges


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros. On the host they are pages that the system hands out when they are first written, so that a large
    cache costs what is used of it."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = int(np.prod(shape)) * dtype.itemsize
    if sys.platform == "win32":
        pages = mmap.mmap(-1, size)
    else:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
