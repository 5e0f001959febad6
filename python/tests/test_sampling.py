"""Sampling: distributions against a plain reference, ties, and independence of a row from its batch mates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from pillion._sampling import Penalties, SamplingRows, sample, uniforms


def rows(count: int, **columns: Any) -> SamplingRows:
    """Greedy rows with columns to taste; a single value stands for all."""
    defaults: dict[str, tuple[Any, Any]] = {
        "temperature": (0.0, np.float32),
        "top_k": (0, np.int64),
        "top_p": (1.0, np.float32),
        "min_p": (0.0, np.float32),
        "repetition_penalty": (1.0, np.float32),
        "presence_penalty": (0.0, np.float32),
        "seed": (0, np.uint64),
        "position": (np.arange(count), np.int64),
        "logprobs": (-1, np.int64),
    }
    made = {
        name: np.broadcast_to(np.asarray(columns.pop(name, value), dtype=kind), (count,)).copy()
        for name, (value, kind) in defaults.items()
    }
    return SamplingRows(**made, **columns)


def pick(source: SamplingRows, index: list[int]) -> SamplingRows:
    """Some of the rows."""
    at = np.array(index)
    return SamplingRows(*(column[at] for column in source[:9]))


def reference(logits: torch.Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Any:
    """The distribution as a textbook would write it."""
    probs = torch.softmax(logits.double() / temperature, dim=-1)
    order = sorted(range(len(probs)), key=lambda i: -float(probs[i]))
    if top_k:
        order = order[:top_k]
    mass = sum(float(probs[i]) for i in order)
    kept, reached = [], 0.0
    for i in order:
        if reached >= top_p * mass:
            break
        kept.append(i)
        reached += float(probs[i])
    kept = [i for i in kept if float(probs[i]) >= min_p * float(probs.max())]
    result = torch.zeros_like(probs)
    result[kept] = probs[kept]
    return (result / result.sum()).numpy()


def test_greedy_takes_the_lowest_of_ties() -> None:
    logits = torch.zeros(6, 50_000)
    logits[1, 40_000] = logits[1, 17] = 2.0
    logits[2, 49_999] = 1.0
    logits[3, :] = -7.0
    logits[4, 31_000:] = 3.5
    assert sample(logits, rows(6)).tokens.tolist() == [0, 17, 49_999, 0, 31_000, 0]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"temperature": 1.0, "top_k": 3},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_k": 99},
        {"temperature": 1.3, "top_p": 0.6},
        {"temperature": 1.0, "top_p": 0.0001},
        {"temperature": 1.0, "min_p": 0.2},
        {"temperature": 2.0, "top_k": 8, "top_p": 0.7},
        {"temperature": 2.0, "top_k": 8, "top_p": 0.7, "min_p": 0.4},
    ],
)
def test_draws_follow_the_distribution(options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    logits = torch.randn(20) * 2
    expected = reference(logits, **options)
    draws = 20_000
    found = sample(logits.repeat(draws, 1), rows(draws, seed=42, **options)).tokens
    counts = np.bincount(found.numpy(), minlength=20)
    assert counts[expected == 0].sum() == 0
    likely = expected * draws >= 5
    chi = (((counts - expected * draws) ** 2)[likely] / (expected * draws)[likely]).sum()
    # 0.1% of honest samplers would be above this; the seed is fixed, so the test cannot flicker.
    degrees = max(int(likely.sum()) - 1, 1)
    assert chi < degrees + 3.1 * math.sqrt(2 * degrees) + 4


def test_a_nucleus_wider_than_the_shortcut_is_exact() -> None:
    torch.manual_seed(4)
    logits = torch.randn(3, 5000) * 0.1
    logits[1] *= 40
    found = sample(logits.repeat(600, 1), rows(1800, temperature=1.0, top_p=0.9, seed=1)).tokens.view(600, 3)
    for row in range(3):
        allowed = np.flatnonzero(reference(logits[row], 1.0, top_p=0.9))
        drawn = set(found[:, row].tolist())
        assert drawn <= set(allowed.tolist())
        if row != 1:
            # Nearly uniform over some 4,500 ids: the draws must reach all of that.
            assert len(drawn) > 500 and max(drawn) > 4900 and min(drawn) < 100


def test_ties_at_a_border_stay_together() -> None:
    logits = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.0]).repeat(4000, 1)
    for options in ({"top_k": 2}, {"top_p": 0.8}):
        found = sample(logits, rows(4000, temperature=1.0, seed=5, **options)).tokens
        assert set(found.tolist()) == {0, 1, 2, 3}


def mixed(count: int, vocab: int) -> tuple[torch.Tensor, SamplingRows]:
    generator = torch.Generator().manual_seed(6)
    rng = np.random.default_rng(7)
    logits = torch.randn(count, vocab, generator=generator) * 3
    # Coarse logits tie often, as those of low precision do.
    logits = (logits * 4).round() / 4
    return logits, rows(
        count,
        temperature=rng.choice([0.0, 0.7, 1.0, 1.5], count),
        top_k=rng.choice([0, 0, 1, 5, 40, 300], count),
        top_p=rng.choice([1.0, 0.3, 0.9, 0.999], count),
        min_p=rng.choice([0.0, 0.0, 0.1], count),
        seed=rng.integers(0, 2**63, count),
        position=rng.integers(0, 100, count),
    )


def test_a_row_does_not_depend_on_its_batch_mates() -> None:
    logits, params = mixed(48, 1000)
    together = sample(logits, params).tokens.tolist()
    alone = [sample(logits[i : i + 1], pick(params, [i])).tokens.item() for i in range(48)]
    assert alone == together
    shuffled = np.random.default_rng(8).permutation(48).tolist()
    again = sample(logits[shuffled], pick(params, shuffled)).tokens.tolist()
    assert again == [together[i] for i in shuffled]
    half = list(range(0, 48, 2))
    assert sample(logits[half], pick(params, half)).tokens.tolist() == [together[i] for i in half]


def test_the_numbers_are_even_and_independent() -> None:
    count = 100_000
    positions = np.arange(count, dtype=np.int64)
    one = uniforms(np.full(count, 1, dtype=np.uint64), positions)
    assert one.min() >= 0 and one.max() < 1 and one.dtype == np.float32
    counts = np.histogram(one, bins=100, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 99 + 3.1 * math.sqrt(198)
    for other_seed, shift in ((1, 1), (2, 0), (2, 1), (1 << 32, 0)):
        other = uniforms(np.full(count, other_seed, dtype=np.uint64), positions + shift)
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.02
    # Neighbouring seeds at one position are as good as neighbouring positions of one seed.
    across = uniforms(np.arange(count, dtype=np.uint64), np.zeros(count, dtype=np.int64))
    counts = np.histogram(across, bins=100, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 99 + 3.1 * math.sqrt(198)


def test_the_numbers_are_pinned() -> None:
    """A replay by another version must draw the same tokens."""
    found = uniforms(np.array([0, 0, 1, 2**64 - 1], dtype=np.uint64), np.array([0, 1, 0, 12345], dtype=np.int64))
    assert [int(x * 2**24) for x in found] == [int(expected_uniform(*at) * 2**24) for at in PINNED]


PINNED = [(0, 0), (0, 1), (1, 0), (2**64 - 1, 12345)]


def expected_uniform(seed: int, position: int) -> float:
    """The same in plain integers."""
    mask = 2**64 - 1

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    return (mix((mix((seed + golden) & mask) + (position + 1) * golden) & mask) >> 40) / 2**24


def test_extreme_parameters_give_the_best_token() -> None:
    torch.manual_seed(9)
    logits = torch.randn(4, 300) * 50
    best = logits.argmax(-1).tolist()
    for options in ({"temperature": 1e-30}, {"temperature": 1.0, "top_p": 0.0}, {"temperature": 5.0, "top_k": 1}):
        assert sample(logits, rows(4, seed=3, **options)).tokens.tolist() == best


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bad_logits_fail_their_own_row_only(value: float, temperature: float) -> None:
    torch.manual_seed(10)
    logits = torch.randn(5, 100)
    params = rows(5, temperature=temperature, seed=1, logprobs=2)
    good = sample(logits, params)
    logits[1, 50] = value
    logits[3, :] = -math.inf
    found = sample(logits, params)
    assert found.ok.tolist() == [True, False, True, False, True]
    for row in (0, 2, 4):
        assert found.tokens[row] == good.tokens[row]
        assert found.logprobs is not None and good.logprobs is not None
        assert found.logprobs[row] == good.logprobs[row]


def test_minus_infinity_is_a_token_that_cannot_be() -> None:
    logits = torch.full((1000, 8), -math.inf)
    logits[:, 2] = 0.0
    logits[:, 5] = 1.0
    found = sample(logits, rows(1000, temperature=1.0, seed=2))
    assert found.ok.all() and set(found.tokens.tolist()) == {2, 5}


def test_penalties_are_those_of_transformers_and_openai() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    torch.manual_seed(11)
    logits = torch.randn(3, 30)
    history = torch.tensor([[1, 2, 3, 4, 29, 29], [5, 6, 7, 7, 0, 0], [9, 9, 9, 9, 9, 9]], dtype=torch.int32)
    penalties = Penalties(np.array([0, 1]), history[:2], np.array([2, 3]), np.array([4, 4]))
    params = rows(3, repetition_penalty=[1.7, 1.0, 1.0], presence_penalty=[0.0, 100.0, 0.0], penalties=penalties)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(history[:1, :4].long(), logits[:1].clone())
    # Presence counts what the model said itself: the 7 of the prompt's end and of the answer, but not 5 and 6.
    spoken = logits[1].clone()
    spoken[7] -= 100.0
    seen = sample(logits, params)
    assert seen.tokens.tolist() == [int(expected.argmax()), int(spoken.argmax()), int(logits[2].argmax())]
    draws = 4000
    many = rows(draws, temperature=1.0, seed=1, repetition_penalty=1.7)._replace(
        penalties=Penalties(np.arange(draws), history[:1].repeat(draws, 1), np.full(draws, 2), np.full(draws, 4))
    )
    counts = np.bincount(sample(logits[:1].repeat(draws, 1), many).tokens.numpy(), minlength=30)
    wanted = reference(expected[0], 1.0)
    assert np.abs(counts / draws - wanted).max() < 0.03


def test_a_grammar_binds_its_rows_only() -> None:
    torch.manual_seed(12)
    vocab = 70
    logits = torch.randn(4, vocab)
    logits[:, 69] = 50.0
    allowed = [3, 31, 32, 64]
    words = np.zeros(3, dtype=np.uint32)
    for token in allowed:
        words[token // 32] |= np.uint32(1 << (token % 32))
    nothing = np.zeros(3, dtype=np.uint32)
    bitmask = np.stack((words, nothing)).view(np.int32)
    params = rows(4, masked=np.array([1, 3]), bitmask=bitmask)
    found = sample(logits, params)
    assert found.tokens[0] == 69 and found.tokens[2] == 69
    assert found.tokens[1] == max(allowed, key=lambda token: float(logits[1, token]))
    assert found.ok.tolist() == [True, True, True, False]
    drawn = sample(
        logits[:1].repeat(500, 1),
        rows(500, temperature=10.0, seed=3, masked=np.arange(500), bitmask=np.tile(bitmask[:1], (500, 1))),
    )
    assert set(drawn.tokens.tolist()) == set(allowed)


def test_logprobs_are_the_models_own() -> None:
    torch.manual_seed(13)
    logits = torch.randn(4, 40)
    params = rows(4, temperature=[0.0, 2.0, 0.0, 0.0], seed=1, logprobs=[3, 0, -1, 1], top_k=[0, 2, 0, 0])
    found = sample(logits, params)
    expected = torch.log_softmax(logits, -1)
    assert found.logprobs is not None and found.top_ids is not None and found.top_logprobs is not None
    for row in (0, 1, 3):
        assert found.logprobs[row] == pytest.approx(float(expected[row, found.tokens[row]]), abs=1e-6)
    assert found.logprobs[2] == 0
    best = torch.topk(expected[0], 3)
    assert found.top_ids[0].tolist() == best.indices.tolist()
    assert torch.allclose(found.top_logprobs[0], best.values)
    assert sample(logits, rows(4)).logprobs is None
    assert sample(logits, rows(4, logprobs=0)).top_ids is None
