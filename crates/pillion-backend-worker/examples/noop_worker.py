"""The worker that `roundtrip.rs` measures: decodes each step and answers each row that wants a token, with no model behind it."""

from __future__ import annotations

import os
from typing import Any

import pillion
from pillion import _serve, _step


class NoopHandler:
    def __init__(self, config: Any, progress: Any) -> None:
        self.answers: dict[int, bytes] = {}

    def info(self) -> dict[str, Any]:
        model = {
            "name": "noop",
            "tasks": ["generate"],
            "maxContext": 4096,
            "vocabSize": 100,
            "numSlots": 32,
            "kvTokens": 131072,
            "eosTokenIds": [0],
        }
        return {"version": pillion.__version__, "stepVersion": _step.VERSION, "pid": os.getpid(), "model": model}

    def step(self, record: bytes) -> bytes:
        step = _step.decode_step(record)
        return _step.encode_output(step.step_id, 1, tokens=bytes(4 * step.num_rows))

    def close(self) -> None:
        pass


def main(control_fd: int) -> None:
    _serve.main(control_fd, NoopHandler)
