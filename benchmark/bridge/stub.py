"""The model of this benchmark: answers steps and forwards at once, or after a time of being busy.

The engine gives steps to generators only, which need torch. Here a class answers them, behind the handler that every
bridge calls, so that what is measured is the way to a model and back: the record is decoded, and the answer written, by
the code that the real runners use.
"""

from __future__ import annotations

import time
from typing import Any

import pillion
from pillion._step import MAGIC, decode_step, encode_output
from pillion.runners.callable import CallableRunner

_MAGIC = MAGIC.to_bytes(4, "little")
_STEP = b"\x01\x00"
_forward = CallableRunner.run
_TOKENS = b"".join(slot.to_bytes(4, "little") for slot in range(1024))
_busy_ns = 0


class Stub(pillion.Model):
    """Gives back what it gets."""

    def load(self, context: pillion.Context) -> None:
        global _busy_ns
        _busy_ns = int(context.options.get("busyMs", 0) * 1e6)

    def forward(self, batch: list[Any]) -> list[Any]:
        return batch


def busy(nanoseconds: int) -> None:
    """Keeps the thread, and the GIL, as a forward pass in Python code does."""
    until = time.perf_counter_ns() + nanoseconds
    while time.perf_counter_ns() < until:
        pass


def run(self: CallableRunner, record: bytes) -> bytes:
    """A step is answered with a token for each row, counted from 0; what is no record comes back as it is."""
    if record[6:8] != _STEP:
        return record if record[:4] != _MAGIC else _forward(self, record)
    step = decode_step(record)
    if _busy_ns:
        busy(_busy_ns)
    return encode_output(step.step_id, _busy_ns, _TOKENS[: len(step.rows)])


CallableRunner.run = run  # type: ignore[method-assign]
