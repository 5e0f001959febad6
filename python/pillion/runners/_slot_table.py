"""What the runner knows of each slot's sequence, as columns, so that a step's rows are looked up at once.

Knows no tensors and no model. All checks of a record's meaning are here: after them the runner may trust every number.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pillion._step import ROW_MASKED, ROW_SAMPLE, SEQUENCE_LOGPROBS, NewSequence, Step
from pillion.errors import StepRecordError

__all__ = ["SlotTable"]

_INTEGERS: Final = ("prompt_len", "max_len", "top_k", "logprobs")
_REALS: Final = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty")


class SlotTable:
    """One entry per slot in every column."""

    def __init__(self, num_slots: int, vocab_size: int, max_context: int) -> None:
        self.num_slots = num_slots
        self._vocab_size = vocab_size
        self._max_context = max_context
        self.active = np.zeros(num_slots, dtype=np.bool_)
        self.known = np.zeros(num_slots, dtype=np.int64)
        """How many tokens are in the pool: prompt and sampled."""
        self.computed = np.zeros(num_slots, dtype=np.int64)
        """How many positions were given to the model."""
        self.verified = np.zeros(num_slots, dtype=np.int64)
        """How many positions are known to have given finite logits."""
        self.prompt_len, self.max_len, self.top_k, self.logprobs = (
            np.zeros(num_slots, dtype=np.int64) for _ in _INTEGERS
        )
        self.temperature, self.top_p, self.min_p, self.repetition_penalty, self.presence_penalty = (
            np.zeros(num_slots, dtype=np.float32) for _ in _REALS
        )
        self.seed = np.zeros(num_slots, dtype=np.uint64)
        self.penalized = np.zeros(num_slots, dtype=np.bool_)

    def check_entering(self, step: Step) -> None:
        """Refuses a step whose sequences cannot enter, before anything has changed."""
        for slot in step.freed:
            if slot >= self.num_slots:
                raise StepRecordError(f"slot {slot} is freed, there are {self.num_slots}")
        freed = set(step.freed)
        entering: set[int] = set()
        for new in step.new:
            if new.slot >= self.num_slots:
                raise StepRecordError(f"a sequence enters slot {new.slot}, there are {self.num_slots}")
            if new.slot in entering or (self.active[new.slot] and new.slot not in freed):
                raise StepRecordError(f"a sequence enters slot {new.slot}, which is taken")
            if not 0 < new.prompt_len <= new.max_len <= self._max_context:
                raise StepRecordError(
                    f"slot {new.slot}: a prompt of {new.prompt_len} tokens, {new.max_len} positions in all, "
                    f"in a context of {self._max_context}"
                )
            entering.add(new.slot)
        if len(step.prompts):
            highest = int(np.frombuffer(step.prompts, dtype=np.uint32).max())
            if highest >= self._vocab_size:
                raise StepRecordError(f"a prompt has the token id {highest}, the model knows {self._vocab_size}")

    def enter(self, new: NewSequence) -> None:
        """Takes over a sequence's parameters."""
        slot = new.slot
        self.active[slot] = True
        self.known[slot] = self.prompt_len[slot] = new.prompt_len
        self.computed[slot] = self.verified[slot] = 0
        self.max_len[slot] = new.max_len
        self.top_k[slot] = new.top_k
        self.logprobs[slot] = new.logprobs if new.flags & SEQUENCE_LOGPROBS else -1
        self.temperature[slot] = max(new.temperature, 0.0)
        self.top_p[slot] = new.top_p
        self.min_p[slot] = new.min_p
        self.repetition_penalty[slot] = new.repetition_penalty
        self.presence_penalty[slot] = new.presence_penalty
        self.penalized[slot] = new.repetition_penalty != 1.0 or new.presence_penalty != 0.0
        self.seed[slot] = new.seed

    def leave(self, slot: int) -> int:
        """Forgets the slot's sequence; how many of its positions may have given values that are not finite."""
        self.active[slot] = False
        return int(self.computed[slot]) if self.computed[slot] != self.verified[slot] else 0

    def check_copies(self, step: Step) -> list[tuple[int, int, int]]:
        """The cache copies as (from, to, positions): all that the source has and the target may use."""
        copies = []
        for source, target in zip(step.copies[::2], step.copies[1::2], strict=True):
            if not (source < self.num_slots and target < self.num_slots and source != target):
                raise StepRecordError(f"a copy from slot {source} to {target}, there are {self.num_slots}")
            if not (self.active[source] and self.active[target]):
                raise StepRecordError(f"a copy from slot {source} to {target}, of which one is empty")
            copies.append((source, target, int(min(self.computed[source], self.max_len[target]))))
        return copies

    def check_rows(self, step: Step) -> NDArray[np.int64]:
        """The rows as [rows, (slot, start, count, flags)], all within what their sequences have."""
        rows = np.frombuffer(step.rows, dtype=np.uint32).reshape(-1, 4).astype(np.int64)
        slots, starts, counts, _ = rows.T
        if len(rows) == 0:
            return rows
        if slots.max() >= self.num_slots or not self.active[slots].all():
            raise StepRecordError(f"a row of a slot that is empty or beyond {self.num_slots}: {_show(slots)}")
        if len(np.unique(slots)) != len(slots):
            raise StepRecordError(f"two rows of one slot: {_show(slots)}")
        ends = starts + counts
        wrong = (counts == 0) | (ends > self.known[slots]) | (starts > self.computed[slots])
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            slot = int(slots[at])
            raise StepRecordError(
                f"a row of slot {slot} asks for {counts[at]} positions from {starts[at]}, "
                f"where {self.computed[slot]} are computed and {self.known[slot]} tokens are known"
            )
        return rows

    def check_bitmask(self, step: Step, flags: NDArray[np.int64]) -> NDArray[np.int32] | None:
        """The grammar words of the masked rows that are sampled, one line each; None if there are none."""
        masked = (flags & ROW_MASKED) != 0
        words = -(-self._vocab_size // 32)
        if len(step.bitmask) != words * int(np.count_nonzero(masked)):
            raise StepRecordError(
                f"{len(step.bitmask)} words of bitmask for {np.count_nonzero(masked)} rows of {words} words each"
            )
        if not masked.any():
            return None
        lines = np.frombuffer(step.bitmask, dtype=np.int32).reshape(-1, words)
        sampled: NDArray[np.int32] = lines[(flags[masked] & ROW_SAMPLE) != 0].copy()
        return sampled


def _show(slots: NDArray[np.int64]) -> str:
    return ", ".join(str(slot) for slot in slots.tolist()[:16])
