"""The arena: extents never overlap, regular ones line up, and what fits can always be placed."""

from __future__ import annotations

import random

import pytest

from pillion._arena import Arena


def test_neighbours_line_up_lowest_first() -> None:
    arena = Arena(100, 10)
    assert [arena.place(slot, wanted) for slot, wanted in ((5, 3), (1, 10), (2, 11), (3, 1))] == [0, 10, 20, 40]
    arena.free(1)
    assert arena.place(7, 10) == 10
    assert arena.size(2) == 20 and arena.promised(2) == 11
    assert 7 in arena and 1 not in arena


def test_a_gap_too_small_is_passed_over() -> None:
    arena = Arena(50, 10)
    for slot in range(3):
        arena.place(slot, 10)
    arena.free(1)
    assert arena.place(4, 20) == 30
    assert arena.place(5, 10) == 10


@pytest.mark.parametrize("seed", range(30))
def test_whatever_fits_can_be_placed(seed: int) -> None:
    rng = random.Random(seed)
    capacity = rng.randrange(20, 400)
    arena = Arena(capacity, rng.randrange(1, capacity))
    promised: dict[int, int] = {}
    # What each place holds, moved as the tier would move it.
    places: list[int | None] = [None] * capacity
    for slot in range(300):
        wanted = rng.randrange(1, max(2, capacity // 3))
        while sum(promised.values()) + wanted > capacity:
            gone = rng.choice(list(promised))
            del promised[gone]
            arena.free(gone)
        if arena.place(slot, wanted) is None:
            for move in arena.compact():
                length = promised[move.slot]
                assert move.target < move.source
                places[move.target : move.target + length] = places[move.source : move.source + length]
            assert arena.place(slot, wanted) is not None
        promised[slot] = wanted
        offset = arena.offset(slot)
        places[offset : offset + wanted] = [slot] * wanted
        ends = 0
        for other in sorted(promised, key=arena.offset):
            assert arena.offset(other) >= ends
            assert arena.size(other) >= arena.promised(other) == promised[other]
            ends = arena.offset(other) + arena.size(other)
            assert places[arena.offset(other) : arena.offset(other) + promised[other]] == [other] * promised[other]
        assert ends <= capacity


def test_what_does_not_fit_is_refused() -> None:
    arena = Arena(10, 4)
    assert arena.place(0, 11) is None
    assert arena.place(0, 10) == 0
    assert arena.place(1, 1) is None
    with pytest.raises(ValueError):
        Arena(4, 5)
