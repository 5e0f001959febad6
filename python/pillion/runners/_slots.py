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
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from pillion._arena import Arena
from pillion.runners._tier import Batch, Geometry

__all__ = ["ATTENTION", "SlotTier"]

ATTENTION: Final = "pillion_slots"
"""The name of our attention function in transformers' registry."""

# What an attention function may be given beyond its own parameters and needs not heed. Anything else is refused, at
# load.
_IGNORED: Final = frozenset({"position_ids", "use_cache", "output_attentions", "output_hidden_states"})


class Run(NamedTuple):
    """Decode rows whose extents lie at equal distances, so that one view of the cache holds them all."""

    first: int
    """Index of its first row in the batch's packed order."""
    rows: int
    offset: int
    distance: int


class Chunk(NamedTuple):
    """A prefill row: more than one position of one sequence."""

    first: int
    """Index of its first token in the packed text."""
    tokens: int
    start: int
    offset: int


class Order(NamedTuple):
    """How the rows of a batch stand in the packed text: decode rows by their place in the cache, then prefill rows."""

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]
    """Where each row's extent begins, in packed order."""
    runs: list[Run]


class Plan(NamedTuple):
    """How one batch lies in the packed text and in the cache."""

    kv_index: torch.Tensor
    """The place in the arena of every token."""
    runs: list[Run]
    lengths: NDArray[np.int64]
    """How far each decode row may look, in packed order."""
    chunks: list[Chunk]
    masks: dict[tuple[int, int | None], torch.Tensor | None]
    """Made when first needed and shared by all layers: by index of the run (or chunk, after the runs) and window."""


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
        self._cache = _SlotCache(self._keys, self._values)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        # Decode runs stay the same from step to step until a sequence enters or leaves.
        self._version = 0
        self._known: tuple[int, bytes, Order] | None = None
        AttentionInterface.register(ATTENTION, _attend)
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
        chunks = [
            Chunk(int(firsts[row]), int(counts[row]), int(starts[row]), int(offsets[row]))
            for row in range(num_decode, len(order))
        ]
        self._cache.plan = Plan(kv_index, runs, starts[:num_decode] + 1, chunks, {})
        ids = batch.pool.view(-1).index_select(0, token_index).long()[None, :]
        logits = self._run(ids, position_ids[None, :], last_index)
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
        keywords: dict[str, Any] = {}
        if self._keeps_logits:
            # An empty choice would ask for an empty product; one row is thrown away instead.
            keywords["logits_to_keep"] = last_index if len(last_index) else 1
        output = self._model(
            input_ids=ids, position_ids=position_ids, past_key_values=self._cache, use_cache=True, **keywords
        )
        logits: torch.Tensor = output.logits[0]
        if not len(last_index):
            return logits[:0]
        return logits if self._keeps_logits else logits[last_index]

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


def _runs(slots: list[int], lengths: list[int], arena: Arena) -> list[Run]:
    """Cuts rows, ordered by place, into runs of equal extents at equal distances, each of which can be one view. A
    view is never longer than an extent, so that it shows no other sequence."""
    runs: list[Run] = []
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
                runs[-1] = Run(last.first, last.rows + 1, last.offset, distance)
                continue
        runs.append(Run(row, 1, offset, size))
    return runs


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """`start, start + 1, ..` for each row, one after the other."""
    firsts = np.cumsum(counts) - counts
    ranges: NDArray[np.int64] = np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(starts - firsts, counts)
    return ranges


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """What models ask of a layer of the cache before they attend; the data are in the arena."""

    is_sliding = False

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        raise AssertionError("the arena is made at load: this is a bug")

    def update(self, *_: object, **__: object) -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError("the cache writes to the arena itself: this is a bug")

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0


class _SlotCache(Cache):  # type: ignore[misc]
    """The arena as transformers' `Cache`: writes a step's keys and values where they belong."""

    plan: Plan

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__(layers=[_Layer() for _ in range(len(keys))])
        self.keys = list(keys)
        self.values = list(values)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new keys and values; gives them back as they came, since our attention reads the arena."""
        index = self.plan.kv_index
        self.keys[layer_idx].index_copy_(1, index, key_states[0])
        self.values[layer_idx].index_copy_(1, index, value_states[0])
        return key_states, value_states


def _view(cache: torch.Tensor, rows: int, offset: int, distance: int, length: int) -> torch.Tensor:
    """[rows, heads, length, dim] over extents at equal distances in one layer's [heads, places, dim]."""
    heads, places, dim = cache.shape
    begin = cache.storage_offset() + offset * dim
    return cache.as_strided((rows, heads, length, dim), (distance * dim, places * dim, dim, 1), begin)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of transformers' interface: `query` is [1, heads, tokens, dim], the result [1, tokens, heads, dim]."""
    unknown = [
        name for name, given in others.items() if name not in _IGNORED and given is not None and given is not False
    ]
    if attention_mask is not None:
        unknown.append("a mask of its own")
    if is_causal is False:
        unknown.append("is_causal=False")
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    cache: _SlotCache = module.pillion_cache
    plan = cache.plan
    layer: int = module.layer_idx
    keys, values = cache.keys[layer], cache.values[layer]
    by_token = query[0].transpose(0, 1)
    parts: list[torch.Tensor] = []
    for index, run in enumerate(plan.runs):
        rows = by_token[run.first : run.first + run.rows]
        parts.append(_attend_run(rows, keys, values, plan, index, scaling, sliding_window))
    for index, chunk in enumerate(plan.chunks):
        tokens = query[:, :, chunk.first : chunk.first + chunk.tokens]
        parts.append(_attend_chunk(tokens, keys, values, plan, index, scaling, sliding_window))
    result = parts[0] if len(parts) == 1 else torch.cat(parts)
    return result[None], None


def _attend_run(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    plan: Plan,
    index: int,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """One query of each row of a run, [rows, heads, dim] to the same. The heads that share keys stand as queries of one
    head, so that no key is repeated."""
    run = plan.runs[index]
    lengths = plan.lengths[run.first : run.first + run.rows]
    length = int(lengths.max())
    result = scaled_dot_product_attention(
        query.reshape(run.rows, len(keys), -1, query.shape[2]),
        _view(keys, run.rows, run.offset, run.distance, length),
        _view(values, run.rows, run.offset, run.distance, length),
        attn_mask=_run_mask(plan, index, lengths, length, window, query),
        scale=scaling,
    )
    return result.reshape(run.rows, -1, values.shape[2])


def _attend_chunk(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    plan: Plan,
    index: int,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """The queries of one prefill row, [1, heads, tokens, dim] to [tokens, heads, dim]."""
    chunk = plan.chunks[index]
    mask = _chunk_mask(plan, len(plan.runs) + index, chunk, window, query)
    own_keys = _view(keys, 1, chunk.offset, 0, chunk.start + chunk.tokens)
    own_values = _view(values, 1, chunk.offset, 0, chunk.start + chunk.tokens)
    sharing = query.shape[1] // len(keys)
    if sharing > 1 and mask is not None and query.device.type != "cpu":
        # Only the slowest kernel of a GPU takes both a mask and shared keys.
        own_keys = own_keys.repeat_interleave(sharing, dim=1)
        own_values = own_values.repeat_interleave(sharing, dim=1)
        sharing = 1
    result = scaled_dot_product_attention(
        query, own_keys, own_values, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=sharing > 1
    )
    return result[0].transpose(0, 1)


def _run_mask(
    plan: Plan, index: int, lengths: NDArray[np.int64], length: int, window: int | None, like: torch.Tensor
) -> torch.Tensor | None:
    """What decode rows may see, to be added to the scores; None if all see the same."""
    if window is not None and length <= window:
        window = None
    if (index, window) not in plan.masks:
        if window is None and (lengths == length).all():
            plan.masks[index, window] = None
        else:
            ends = torch.from_numpy(lengths).to(like.device)[:, None]
            position = torch.arange(length, device=like.device)[None, :]
            hidden = position >= ends
            if window is not None:
                hidden |= position < ends - window
            plan.masks[index, window] = _additive(hidden, like)[:, None, None, :]
    return plan.masks[index, window]


def _chunk_mask(plan: Plan, index: int, chunk: Chunk, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    """What the positions of a prefill row may see; None if that is plain causal attention from the beginning."""
    end = chunk.start + chunk.tokens
    if window is not None and end <= window:
        window = None
    if chunk.start == 0 and window is None:
        return None
    if (index, window) not in plan.masks:
        queries = torch.arange(chunk.start, end, device=like.device)[:, None]
        position = torch.arange(end, device=like.device)[None, :]
        hidden = position > queries
        if window is not None:
            hidden |= position <= queries - window
        plan.masks[index, window] = _additive(hidden, like)
    return plan.masks[index, window]


def _additive(hidden: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, -torch.inf)


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
