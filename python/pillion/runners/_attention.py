"""Attention over the arena: stands in for a model's own, behind transformers' attention interface.

A step's rows come as parts: runs of decode rows, each a view of neighbouring extents, and prefill chunks. A part is
made once per step and shared by all layers. The tokens of a step stand either in one text, [1, tokens], or, if all
rows decode, one below the other, [tokens, 1], which spares the layers between them transpositions. Knows nothing of
slots, order or the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import Cache, CacheLayerMixin

__all__ = ["Chunk", "Plan", "Run", "SlotCache", "attend"]

# What an attention function may be given beyond its own parameters and needs not heed. Anything else is refused.
_IGNORED: Final = frozenset({"position_ids", "use_cache", "output_attentions", "output_hidden_states"})


class Run:
    """Decode rows whose extents lie at equal distances, so that one view of the cache holds them all."""

    __slots__ = ("_keys", "_lengths", "_longest", "_masks", "_rows", "_values")

    def __init__(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        rows: slice,
        lengths: NDArray[np.int64],
        offset: int,
        distance: int,
    ) -> None:
        """`rows` are those of the packed text, `lengths` how far each may look."""
        self._rows = rows
        self._lengths = lengths
        self._longest = int(lengths.max())
        self._keys = _views(keys, len(lengths), offset, distance, self._longest)
        self._values = _views(values, len(lengths), offset, distance, self._longest)
        self._masks: dict[int | None, torch.Tensor | None] = {}

    def attend(self, query: torch.Tensor, layer: int, scaling: float | None, window: int | None) -> torch.Tensor:
        """The queries of the whole step to [rows, heads, dim] of this run. The heads that share keys stand as queries
        of one head, so that no key is repeated."""
        keys, values = self._keys[layer], self._values[layer]
        rows, heads, _, dim = keys.shape
        own = query[0, :, self._rows].transpose(0, 1) if len(query) == 1 else query[self._rows]
        result = scaled_dot_product_attention(
            own.reshape(rows, heads, -1, dim), keys, values, attn_mask=self._mask(window, query), scale=scaling
        )
        return result.reshape(rows, -1, values.shape[3])

    def _mask(self, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
        """What the rows may see, to be added to the scores; None if all see the same."""
        if window is not None and self._longest <= window:
            window = None
        if window in self._masks:
            return self._masks[window]
        mask = None
        if window is not None or (self._lengths != self._longest).any():
            ends = torch.from_numpy(self._lengths).to(like.device)[:, None]
            position = torch.arange(self._longest, device=like.device)[None, :]
            hidden = position >= ends
            if window is not None:
                hidden |= position < ends - window
            mask = _additive(hidden, like)[:, None, None, :]
        self._masks[window] = mask
        return mask


class Chunk:
    """A prefill row: more than one position of one sequence."""

    __slots__ = ("_end", "_keys", "_masks", "_start", "_tokens", "_values")

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, tokens: slice, start: int, offset: int) -> None:
        """`tokens` are those of the packed text, `start` is the position of the first of them."""
        self._tokens = tokens
        self._start = start
        self._end = start + tokens.stop - tokens.start
        self._keys = _views(keys, 1, offset, 0, self._end)
        self._values = _views(values, 1, offset, 0, self._end)
        self._masks: dict[int | None, torch.Tensor] = {}

    def attend(self, query: torch.Tensor, layer: int, scaling: float | None, window: int | None) -> torch.Tensor:
        """The queries of the whole step, [1, heads, tokens, dim], to [tokens, heads, dim] of this chunk."""
        keys, values = self._keys[layer], self._values[layer]
        mask = self._mask(window, query)
        sharing = query.shape[1] // keys.shape[1]
        if sharing > 1 and mask is not None and query.device.type != "cpu":
            # Only the slowest kernel of a GPU takes both a mask and shared keys.
            keys = keys.repeat_interleave(sharing, dim=1)
            values = values.repeat_interleave(sharing, dim=1)
            sharing = 1
        result = scaled_dot_product_attention(
            query[:, :, self._tokens],
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=sharing > 1,
        )
        return result[0].transpose(0, 1)

    def _mask(self, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
        """What the positions may see; None if that is plain causal attention from the beginning."""
        if window is not None and self._end <= window:
            window = None
        if self._start == 0 and window is None:
            return None
        if window not in self._masks:
            queries = torch.arange(self._start, self._end, device=like.device)[:, None]
            position = torch.arange(self._end, device=like.device)[None, :]
            hidden = position > queries
            if window is not None:
                hidden |= position <= queries - window
            self._masks[window] = _additive(hidden, like)
        return self._masks[window]


class Plan(NamedTuple):
    """How one step lies in the packed text and in the cache."""

    kv_index: torch.Tensor
    """The place in the arena of every token."""
    parts: Sequence[Run | Chunk]
    """All rows, in the order of the text."""


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


class SlotCache(Cache):  # type: ignore[misc]
    """The arena as transformers' `Cache`: writes a step's keys and values where they belong."""

    plan: Plan

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__(layers=[_Layer() for _ in range(len(keys))])
        self._keys = keys.unbind(0)
        self._values = values.unbind(0)
        self.unchecked = set(range(len(keys)))
        """Layers whose attention has not been called yet."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new keys and values; gives them back as they came, since our attention reads the arena."""
        index = self.plan.kv_index
        self._keys[layer_idx].index_copy_(1, index, _by_head(key_states))
        self._values[layer_idx].index_copy_(1, index, _by_head(value_states))
        return key_states, value_states


def _by_head(states: torch.Tensor) -> torch.Tensor:
    """[heads, tokens, dim] of [1, heads, tokens, dim] or of [tokens, heads, 1, dim]."""
    return states[0] if len(states) == 1 else states[:, :, 0].transpose(0, 1)


def attend(
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
    """Attention of transformers' interface: of `query` [1, heads, tokens, dim] the result is [1, tokens, heads, dim],
    of [tokens, heads, 1, dim] it is [tokens, 1, heads, dim]."""
    cache: SlotCache = module.pillion_cache
    layer: int = module.layer_idx
    if layer in cache.unchecked:
        # A layer asks for the same in every step; what it asks for is seen when the tier is tried, at load.
        _refuse_unknown(attention_mask, is_causal, others)
        cache.unchecked.discard(layer)
    parts = [part.attend(query, layer, scaling, sliding_window) for part in cache.plan.parts]
    result = parts[0] if len(parts) == 1 else torch.cat(parts)
    return result[None] if len(query) == 1 else result[:, None], None


def _refuse_unknown(mask: torch.Tensor | None, is_causal: bool | None, others: dict[str, Any]) -> None:
    unknown = [
        name for name, given in others.items() if name not in _IGNORED and given is not None and given is not False
    ]
    if mask is not None:
        unknown.append("a mask of its own")
    if is_causal is False:
        unknown.append("is_causal=False")
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")


def _views(cache: torch.Tensor, rows: int, offset: int, distance: int, length: int) -> tuple[torch.Tensor, ...]:
    """For each layer of [layers, heads, places, dim]: [rows, heads, length, dim] over extents at equal distances."""
    layers, heads, places, dim = cache.shape
    shape = (layers, rows, heads, length, dim)
    return cache.as_strided(shape, (heads * places * dim, distance * dim, places * dim, dim, 1), offset * dim).unbind(0)


def _additive(hidden: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, -torch.inf)
