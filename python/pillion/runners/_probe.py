"""Finds out, when a model is loaded, how its cache is shaped and whether the tier `slots` computes what the model
computes.

The model reads three short texts of different lengths, each alone and with its own attention: that is the
reference. Then a tier gets the same texts together, cut into prefill chunks and decode rows. Only if all logits
agree is the tier taken.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import torch

from pillion.runners._single import cache_keyword, new_cache
from pillion.runners._tier import Batch, Geometry, Tier

__all__ = ["Reference", "difference", "observe"]

_LENGTHS: Final = (5, 12, 21)
# Relative error of the logits, root mean square. A wrong mask or position gives about 1.
_TOLERANCE: Final = {torch.float32: 2e-3, torch.bfloat16: 0.15, torch.float16: 0.05}


class Reference(NamedTuple):
    """The model's own logits at every position of a few texts."""

    texts: list[torch.Tensor]
    logits: list[torch.Tensor]
    dtype: torch.dtype
    vocab_size: int
    bytes_per_token: int
    """Of the cache; 0 if it does not grow with the text."""
    geometry: Geometry | None
    """The cache's shape if all layers are alike."""
    irregular: str
    """Why there is no geometry."""


def observe(model: Any, device: torch.device, max_context: int) -> Reference:
    """Runs the model over the texts, each alone."""
    config = model.config.get_text_config(decoder=True)
    # Fixed ids well inside every vocabulary, so that a load can be repeated.
    numbers = np.random.default_rng(0).integers(3, min(int(config.vocab_size), 32_000), size=sum(_LENGTHS))
    texts, logits = [], []
    cache: Any = None
    keyword = cache_keyword(model)
    for length in _LENGTHS:
        text = torch.from_numpy(numbers[:length]).to(device)[: max(2, min(length, max_context))]
        numbers = numbers[length:]
        cache = new_cache(model)
        output = model(input_ids=text[None, :], use_cache=True, **{keyword: cache})
        texts.append(text)
        logits.append(output.logits[0].float())
    layers = list(getattr(cache, "layers", ()))
    grown = [layer for layer in layers if getattr(layer, "keys", None) is not None and layer.keys.dim() == 4]
    size = sum(
        (layer.keys.nbytes + layer.values.nbytes) // layer.keys.shape[2] for layer in grown if layer.keys.shape[2]
    )
    vocab_size = int(logits[-1].shape[-1])
    geometry, irregular = _geometry(layers, grown, vocab_size)
    return Reference(texts, logits, model.dtype, vocab_size, int(size), geometry, irregular)


def _geometry(layers: list[Any], grown: list[Any], vocab_size: int) -> tuple[Geometry | None, str]:
    if not grown:
        return None, "the model keeps no keys and values"
    if len(grown) != len(layers) or any(hasattr(layer, "recurrent_states") for layer in layers):
        return None, "not every layer keeps keys and values"
    first = grown[0]
    shapes = {
        (layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[1], layer.values.shape[3]) for layer in grown
    }
    if len(shapes) != 1 or first.keys.shape[1] != first.values.shape[1]:
        return None, "its layers keep keys and values of different shapes"
    return Geometry(
        len(grown), first.keys.shape[1], first.keys.shape[3], first.values.shape[3], first.keys.dtype, vocab_size
    ), ""


def difference(tier: Tier, reference: Reference, num_slots: int, kv_tokens: int) -> str:
    """How the tier's logits differ from the reference; empty if they agree. As many texts are tried as have room."""
    texts = reference.texts[:num_slots]
    while texts and sum(len(text) for text in texts) > kv_tokens:
        texts = texts[:-1]
    if not texts:
        return f"a cache of {kv_tokens} tokens is too small to try it"
    device = texts[0].device
    pool = torch.zeros((len(texts), max(len(text) for text in texts) + 1), dtype=torch.int32, device=device)
    for slot, text in enumerate(texts):
        pool[slot, : len(text)] = text.int()
        tier.enter(slot, len(text))
    try:
        for cuts in _schedule([len(text) for text in texts]):
            slots = np.array(sorted(cuts), dtype=np.int64)
            starts = np.array([cuts[slot][0] for slot in slots.tolist()], dtype=np.int64)
            ends = np.array([cuts[slot][1] for slot in slots.tolist()], dtype=np.int64)
            batch = Batch(slots, starts, ends - starts, np.ones(len(slots), dtype=np.bool_), pool)
            found = tier.forward(batch).float()
            for row, (slot, end) in enumerate(zip(slots.tolist(), ends.tolist(), strict=True)):
                said = _disagreement(found[row], reference.logits[slot][end - 1], reference.dtype)
                if said:
                    return f"text {slot} at position {end - 1}: {said}"
    finally:
        for slot in range(len(texts)):
            tier.leave(slot, len(texts[slot]))
    return ""


def _schedule(lengths: list[int]) -> list[dict[int, tuple[int, int]]]:
    """Steps of `slot -> (start, end)`: prefill whole and in chunks, decode together, and both in one step."""
    head = [max(1, length // 2) for length in lengths]
    steps: list[dict[int, tuple[int, int]]] = [{slot: (0, end) for slot, end in enumerate(head)}]
    done = dict(enumerate(head))
    while any(done[slot] < length for slot, length in enumerate(lengths)):
        step = {}
        for slot, length in enumerate(lengths):
            if done[slot] < length:
                # The last text goes on in chunks for a while, beside the others' decode rows.
                count = 3 if slot == len(lengths) - 1 and length - done[slot] > 6 else 1
                step[slot] = (done[slot], done[slot] + count)
                done[slot] += count
        steps.append(step)
    return steps


def _disagreement(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> str:
    if not bool(torch.isfinite(found).all()):
        return "logits are not finite"
    tolerance = _TOLERANCE.get(dtype, 2e-3)
    spread = (wanted - wanted.mean()).square().mean().sqrt().clamp_(min=1e-6)
    error = float((found - wanted).square().mean().sqrt() / spread)
    return "" if error <= tolerance else f"logits differ by {error:.3g} of their spread, more than {tolerance}"
