"""The tier `single`: one cache of transformers per slot, rows one by one. Right for every model, and never batched."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch

from pillion.runners._tier import Batch

__all__ = ["SingleTier", "cache_keyword", "new_cache"]


class SingleTier:
    """Runs each row alone, with the model's own cache and masks."""

    name = "single"

    def __init__(self, model: Any, vocab_size: int) -> None:
        self._model = model
        self._vocab_size = vocab_size
        self._cache_keyword = cache_keyword(model)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._caches: dict[int, Any] = {}
        self._lengths: dict[int, int] = {}
        self._whole_prompts = False

    def enter(self, slot: int, max_len: int) -> None:
        """Begins with an empty cache."""
        cache = new_cache(self._model)
        # A recurrent layer takes its state from one token or from the beginning of a text, not from the middle of one.
        self._whole_prompts = any(bool(linear) for linear in getattr(cache, "is_linear", ()))
        self._caches[slot] = cache
        self._lengths[slot] = 0

    def leave(self, slot: int, doubtful: int) -> None:
        """Drops the slot's cache."""
        self._caches.pop(slot, None)
        self._lengths.pop(slot, None)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies a cache that holds just `length` positions; one that holds more has to be computed anew."""
        if self._lengths[source] == length:
            self._caches[target] = copy.deepcopy(self._caches[source])
            self._lengths[target] = length

    def forward(self, batch: Batch) -> torch.Tensor:
        """Runs row after row. A chunk that is not the last of its prompt may wait: it is run together with the next
        one."""
        logits = []
        columns = (batch.slots, batch.starts, batch.ends, batch.sampled)
        for slot, first, end, sampled in zip(*(column.tolist() for column in columns), strict=True):
            if first < self._lengths[slot]:
                self._rewind(slot, first)
            start = self._lengths[slot]
            if not sampled and self._whole_prompts and start == 0:
                continue
            ids = batch.pool[slot, start:end].long()[None, :]
            keywords: dict[str, Any] = {self._cache_keyword: self._caches[slot], "use_cache": True}
            if self._keeps_logits:
                keywords["logits_to_keep"] = 1
            # Counted as written only afterwards would leave a half-written cache that looks untouched.
            self._lengths[slot] = end
            output = self._model(input_ids=ids, **keywords)
            if sampled:
                logits.append(output.logits[0, -1])
        if not logits:
            return torch.empty((0, self._vocab_size), device=batch.pool.device)
        return torch.stack(logits)

    def _rewind(self, slot: int, length: int) -> None:
        """Forgets what a copy brought beyond `length`; all of it where a layer cannot forget a part."""
        cache = self._caches[slot]
        if self._whole_prompts or any(cache.is_sliding):
            self._caches[slot] = new_cache(self._model)
            self._lengths[slot] = 0
        else:
            cache.crop(length - self._lengths[slot])
            self._lengths[slot] = length

    def close(self) -> None:
        """Drops all caches."""
        self._caches.clear()
        self._lengths.clear()
        self._model = None


def new_cache(model: Any) -> Any:
    """An empty cache of the kind that the model's own `generate` would make."""
    from transformers import DynamicCache

    return DynamicCache(config=model.config.get_text_config(decoder=True))


def cache_keyword(model: Any) -> str:
    """The name under which the model's forward pass takes its cache; state-space models have their own."""
    parameters = inspect.signature(model.forward).parameters
    return "cache_params" if "cache_params" in parameters else "past_key_values"
