"""Chooses a token for each row of logits, on the device that they are on.

Every row is chosen by its own parameters alone: what a row gets depends on its logits, its parameters, its seed and
its position, and never on the rows beside it, so that a row can be replayed in another batch. Options that no row
uses cost nothing. The order is that of transformers: penalties, grammar mask, temperature, top-k, top-p among what
top-k left, min-p. Tokens that tie at a border stay in together. Log probabilities are those of the model's own
distribution, before any of that.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Penalties", "Sampled", "SamplingRows", "sample", "uniforms"]

# How many of the best values are looked at for a nucleus, in turn; the last resort is all of them.
_NUCLEUS: Final = (256, 4096)
_GOLDEN: Final = np.uint64(0x9E37_79B9_7F4A_7C15)
_MIX_1: Final = np.uint64(0xBF58_476D_1CE4_E5B9)
_MIX_2: Final = np.uint64(0x94D0_49BB_1331_11EB)


class Penalties(NamedTuple):
    """What penalties look at, for the rows that have any."""

    rows: NDArray[np.int64]
    """Indices into the logits' rows."""
    history: torch.Tensor
    """Token ids by position, [rows, length]; what lies beyond `end` is not looked at."""
    prompt_len: NDArray[np.int64]
    end: NDArray[np.int64]


class SamplingRows(NamedTuple):
    """Parameters of the rows of one batch, one entry per row of logits."""

    temperature: NDArray[np.float32]
    top_k: NDArray[np.int64]
    top_p: NDArray[np.float32]
    min_p: NDArray[np.float32]
    repetition_penalty: NDArray[np.float32]
    presence_penalty: NDArray[np.float32]
    seed: NDArray[np.uint64]
    position: NDArray[np.int64]
    """The position of the token to be chosen."""
    logprobs: NDArray[np.int64]
    """-1 for none, else the number of alternatives."""
    penalties: Penalties | None = None
    masked: NDArray[np.int64] | None = None
    """Indices of the rows that a grammar binds."""
    bitmask: NDArray[np.int32] | None = None
    """Allowed ids of those rows, 32 a word, lowest bit first."""


class Sampled(NamedTuple):
    """One token per row, and log probabilities if any row wants them."""

    tokens: torch.Tensor
    """int64; 0 where `ok` is false."""
    ok: torch.Tensor
    """Whether the row's logits were finite."""
    logprobs: torch.Tensor | None
    """float32, one per row; 0 for rows that did not ask."""
    top_ids: torch.Tensor | None
    top_logprobs: torch.Tensor | None
    """[rows, most alternatives asked for], best first."""


def sample(logits: torch.Tensor, rows: SamplingRows) -> Sampled:
    """Chooses one token per row of `logits`, which are float32, [rows, vocabulary]."""
    best = logits.amax(dim=-1)
    ok = torch.isfinite(best)
    work = logits
    if rows.penalties is not None:
        work = _penalize(work, rows, rows.penalties)
    if rows.masked is not None and rows.bitmask is not None:
        work = _mask(work, rows.masked, rows.bitmask)
    if work is not logits:
        best = work.amax(dim=-1)
        ok &= torch.isfinite(best)
    drawn = np.flatnonzero(rows.temperature > 0)
    every = drawn.size == len(logits)
    tokens = _draw(work, best, rows, drawn) if every else _first_best(work)
    if 0 < drawn.size < len(logits):
        index = torch.from_numpy(drawn).to(logits.device)
        tokens[index] = _draw(work[index], best[index], rows, drawn)
    tokens = torch.where(ok, tokens, 0)
    wanted = np.flatnonzero(rows.logprobs >= 0)
    if not wanted.size:
        return Sampled(tokens, ok, None, None, None)
    return Sampled(tokens, ok, *_logprobs(logits, tokens, ok, wanted, int(rows.logprobs.max())))


def uniforms(seed: NDArray[np.uint64], position: NDArray[np.int64]) -> NDArray[np.float32]:
    """One number in [0, 1) per row, of 24 bits, from its seed and position alone (splitmix64 with the position as
    counter, over a seed that was mixed before, so that neighbouring seeds share no stretch of numbers)."""
    state = _mix(seed + _GOLDEN) + (position.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    numbers: NDArray[np.float32] = (_mix(state) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return numbers


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def _first_best(logits: torch.Tensor) -> torch.Tensor:
    """The lowest of the ids with the highest logit."""
    if logits.device.type == "cpu":
        # torch looks at one value at a time here, numpy at a vector of them: a tenth of the time.
        return torch.from_numpy(logits.numpy().argmax(axis=-1))
    return logits.argmax(dim=-1)


def _penalize(logits: torch.Tensor, rows: SamplingRows, penalties: Penalties) -> torch.Tensor:
    """Repetition looks at prompt and answer, presence at the answer alone."""
    device = logits.device
    index = torch.from_numpy(penalties.rows).to(device)
    repetition = torch.from_numpy(rows.repetition_penalty[penalties.rows]).to(device)[:, None]
    presence = torch.from_numpy(rows.presence_penalty[penalties.rows]).to(device)[:, None]
    history = penalties.history.long()
    position = torch.arange(history.shape[1], device=device)[None, :]
    end = torch.from_numpy(penalties.end).to(device)[:, None]
    answer = torch.from_numpy(penalties.prompt_len).to(device)[:, None]
    part = logits[index]
    vocab = part.shape[1]
    # Positions that do not count point at a column beyond the vocabulary.
    seen = torch.zeros((len(index), vocab + 1), dtype=torch.bool, device=device)
    spoken = seen.clone()
    seen.scatter_(1, torch.where(position < end, history, vocab), True)
    spoken.scatter_(1, torch.where((position >= answer) & (position < end), history, vocab), True)
    scaled = torch.where(part > 0, part / repetition, part * repetition)
    part = torch.where(seen[:, :vocab], scaled, part) - presence * spoken[:, :vocab]
    return logits.index_copy(0, index, part)


def _mask(logits: torch.Tensor, masked: NDArray[np.int64], bitmask: NDArray[np.int32]) -> torch.Tensor:
    device = logits.device
    index = torch.from_numpy(masked).to(device)
    words = torch.from_numpy(bitmask.reshape(len(masked), -1)).to(device)
    bits = (words[:, :, None] >> torch.arange(32, dtype=torch.int32, device=device)) & 1
    allowed = bits.reshape(len(masked), -1)[:, : logits.shape[1]].bool()
    return logits.index_copy(0, index, logits[index].masked_fill(~allowed, -torch.inf))


def _draw(logits: torch.Tensor, best: torch.Tensor, rows: SamplingRows, drawn: NDArray[np.int64]) -> torch.Tensor:
    """Inverts the cumulative distribution, taken in the order of the ids, at each row's own number."""
    device = logits.device
    temperature = torch.from_numpy(rows.temperature[drawn]).to(device)
    # The best is taken off first, so that no temperature, however small, overflows.
    scaled = (logits - best[:, None]) / temperature[:, None]
    border = _borders(scaled, rows.top_k[drawn], rows.top_p[drawn], rows.min_p[drawn])
    weights = torch.exp(scaled)
    if border is not None:
        weights = torch.where(scaled >= border[:, None], weights, 0.0)
    cumulative = torch.cumsum(weights, dim=-1)
    number = torch.from_numpy(uniforms(rows.seed[drawn], rows.position[drawn])).to(device)
    # The number is below 1 by at least 2**-24, so its product stays below the total: a token of weight 0 is never hit.
    target = number[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, target, right=True)[:, 0]
    return found.clamp_(max=logits.shape[1] - 1)


def _borders(
    scaled: torch.Tensor, top_k: NDArray[np.int64], top_p: NDArray[np.float32], min_p: NDArray[np.float32]
) -> torch.Tensor | None:
    """The lowest scaled logit that stays in, per row; None if all stay in everywhere. `scaled` is at most 0."""
    device = scaled.device
    num_rows, vocab = scaled.shape
    border: torch.Tensor | None = None
    if (min_p > 0).any():
        with np.errstate(divide="ignore"):
            border = torch.from_numpy(np.log(min_p)).to(device)
    by_k = (top_k > 0) & (top_k < vocab)
    by_p = top_p < 1
    if not by_k.any() and not by_p.any():
        return border
    if border is None:
        border = torch.full((num_rows,), -torch.inf, device=device)
    k_border = torch.full_like(border, -torch.inf)
    if by_k.any():
        values = torch.topk(scaled, int(top_k[by_k].max()), dim=-1).values
        last = torch.from_numpy(np.where(by_k, top_k, 1) - 1).to(device)
        kth = values.gather(1, last[:, None])[:, 0]
        k_border = torch.where(torch.from_numpy(by_k).to(device), kth, k_border)
        border = torch.maximum(border, k_border)
    if by_p.any():
        rows = np.flatnonzero(by_p)
        index = torch.from_numpy(rows).to(device)
        mass = torch.from_numpy(top_p[rows]).to(device)
        p_border = _nucleus(scaled[index], k_border[index], mass)
        border = border.index_copy(0, index, torch.maximum(border[index], p_border))
    return border


def _nucleus(scaled: torch.Tensor, k_border: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """The border of the smallest set, best first, whose share of what top-k left reaches `mass`. How many values a row
    needs to have in order depends on that row alone."""
    inside = torch.where(scaled >= k_border[:, None], torch.exp(scaled), 0.0)
    wanted = mass * inside.sum(dim=-1)
    border = torch.full_like(k_border, -torch.inf)
    rest = torch.arange(len(border), device=scaled.device)
    for most in (*_NUCLEUS, scaled.shape[1]):
        values = torch.topk(scaled[rest], min(most, scaled.shape[1]), dim=-1).values
        found, reached = _reach(values, k_border[rest], wanted[rest])
        border = border.index_copy(0, rest, found)
        rest = rest[~reached]
        if not len(rest):
            break
    return border


def _reach(values: torch.Tensor, k_border: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Among values in falling order: the last one that is needed for the wanted weight, and whether they reached it."""
    weights = torch.where(values >= k_border[:, None], torch.exp(values), 0.0)
    cumulative = torch.cumsum(weights, dim=-1)
    # A value is needed as long as those before it do not suffice; the best always is.
    needed = 1 + (cumulative[:, :-1] < wanted[:, None]).sum(dim=-1)
    last = torch.maximum(values.gather(1, needed[:, None] - 1)[:, 0], k_border)
    return last, (cumulative[:, -1] >= wanted) | (values[:, -1] < k_border)


def _logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, ok: torch.Tensor, wanted: NDArray[np.int64], alternatives: int
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    index = torch.from_numpy(wanted).to(logits.device)
    all_logprobs = torch.log_softmax(logits[index], dim=-1)
    own = all_logprobs.gather(1, tokens[index, None])[:, 0]
    result = torch.zeros(len(tokens), dtype=torch.float32, device=logits.device)
    result[index] = torch.where(ok[index], own, 0.0)
    if alternatives == 0:
        return result, None, None
    top = torch.topk(all_logprobs, min(alternatives, logits.shape[1]), dim=-1)
    shape = (len(tokens), top.values.shape[1])
    ids = torch.zeros(shape, dtype=torch.int64, device=logits.device).index_copy_(0, index, top.indices)
    values = torch.zeros(shape, dtype=torch.float32, device=logits.device).index_copy_(0, index, top.values)
    return result, ids, values
