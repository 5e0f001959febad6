"""The models of the conformance suite: one that takes steps and needs no torch, and classes as users write them.

The first answers as `pillion_backend_echo::EchoModel` does. A sequence whose request id is `do:` and a word makes it do
what models do to their bridges.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import struct
import sys
import time
import weakref
from typing import Any, NoReturn

import pillion
from pillion import _step, worker
from pillion.errors import PackageMissingError, PillionError

log = logging.getLogger("conformance")

EOS = 256
NUM_SLOTS = 32
# Views of so many steps or batches are kept for the rest of the model's life.
KEPT = 20
LIVE: weakref.WeakSet[Any] = weakref.WeakSet()


def install() -> None:
    """Teaches the real handler the step model; classes it finds by itself."""
    real = worker._open

    def open_runner(config: Any, progress: Any) -> Any:
        if getattr(config.model, "spec", None) == "conformance:Steps":
            return Steps(config.model.options or {}, progress)
        return real(config, progress)

    worker._open = open_runner


class Slot:
    """A sequence."""

    def __init__(self, prompt: list[int], new: Any) -> None:
        self.prompt = prompt
        self.computed = 0
        self.logprobs = bool(new.flags & _step.SEQUENCE_LOGPROBS)
        self.alternatives = new.logprobs


class Steps:
    """A runner: takes step records."""

    def __init__(self, options: dict[str, Any], progress: Any) -> None:
        log.info("models before this one: %d", len(LIVE))
        LIVE.add(self)
        self.gate = options.get("gate")
        self.slots: list[Slot | None] = [None] * NUM_SLOTS
        self.kept: list[tuple[list[Any], list[int]]] = []
        progress("weights", 1.0, 2.0)
        load(options.get("load"), self)
        progress("weights", 2.0, 2.0)

    def info(self) -> dict[str, Any]:
        return {
            "name": "echo",
            "tasks": ["generate"],
            "maxContext": 1 << 20,
            "vocabSize": EOS + 1,
            "numSlots": NUM_SLOTS,
            "kvTokens": NUM_SLOTS << 20,
            "eosTokenIds": [EOS],
        }

    def run(self, record: bytes) -> bytes:
        step = _step.decode_step(record)
        for name in step.request_ids:
            if name.startswith("do:"):
                answer = self.do(name[3:], name, step)
                if answer is not None:
                    return answer
        return self.echo(step)

    def echo(self, step: Any) -> bytes:
        for slot in step.freed:
            self.put(slot, None)
        for new in step.new:
            prompt = step.prompts[new.prompt_offset : new.prompt_offset + new.prompt_len].tolist()
            self.put(new.slot, Slot(prompt, new))
        wants_logprobs = any(slot is not None and slot.logprobs for slot in self.slots)
        tokens, logprobs, top = [], [], b""
        for at in range(0, len(step.rows), 4):
            slot, start, count, flags = step.rows[at : at + 4]
            sequence = self.running(slot, start)
            sequence.computed += count
            if not flags & _step.ROW_SAMPLE:
                continue
            answered = max(sequence.computed - len(sequence.prompt), 0)
            token = sequence.prompt[answered] if answered < len(sequence.prompt) else EOS
            if wants_logprobs:
                logprobs.append(0.0)
                if sequence.alternatives:
                    top += struct.pack("<IIf", len(tokens), token, 0.0)
            tokens.append(token)
        return _step.encode_output(
            step.step_id,
            1,
            tokens=struct.pack(f"<{len(tokens)}I", *tokens),
            logprobs=struct.pack(f"<{len(logprobs)}f", *logprobs),
            top=top,
        )

    def put(self, slot: int, sequence: Slot | None) -> None:
        if slot >= NUM_SLOTS:
            raise PillionError("internal", f"slot {slot} is beyond the cache")
        self.slots[slot] = sequence

    def running(self, slot: int, start: int) -> Slot:
        sequence = self.slots[slot] if slot < NUM_SLOTS else None
        if sequence is None:
            raise PillionError("internal", f"a row for slot {slot}, which is free")
        if start != sequence.computed:
            raise PillionError(
                "internal", f"a row of slot {slot} begins at {start} where {sequence.computed} comes next"
            )
        return sequence

    def do(self, word: str, name: str, step: Any) -> bytes | None:
        """An answer, or nothing if the step goes on."""
        if word in ("raise", "exit", "interrupt", "memory"):
            fail(word)
        if word in ("die", "crash", "leave"):
            end(word)
        if word == "wait":
            self.wait()
        if word == "keep":
            self.keep(step)
        if word.startswith("say"):
            print("on stdout: grüße 😀")
            print("on stderr: grüße 😀", file=sys.stderr)
            log.error("logged: grüße 😀", extra={"request_id": name})
        if word == "other id":
            return _step.encode_output(step.step_id + 1, 0)
        if word == "noise":
            return b"noise"
        return None

    def wait(self) -> None:
        """Until the gate is opened, or its owner has gone."""
        log.info("waiting")
        with open(self.gate, "rb", buffering=0) as gate:
            gate.read(1)

    def keep(self, step: Any) -> None:
        """Keeps views of this step, and looks whether any view has changed."""
        import numpy
        import torch

        if len(self.kept) < KEPT:
            ids = step.prompts[2:]
            array = numpy.frombuffer(ids, dtype=numpy.uint32)
            # What it cannot know is that nobody writes to the tensor.
            tensor = torch.frombuffer(ids, dtype=torch.int32) if len(ids) else torch.empty(0)
            self.kept.append(([ids, array, tensor], ids.tolist()))
        for views, words in self.kept:
            if any(view.tolist() != words for view in views):
                raise AssertionError("a view has changed")

    def close(self) -> None:
        self.kept.clear()

    def trim(self) -> None:
        pass


def load(action: str | None, runner: Steps) -> None:
    if action == "raise":
        raise ValueError("weights are wrong: grüße 😀 \udcff")
    if action == "exit":
        sys.exit(3)
    if action == "package":
        raise PackageMissingError("the package torch is not installed", remedy="run `npx pillion setup`")
    if action == "wait":
        runner.wait()


def fail(word: str) -> NoReturn:
    if word == "exit":
        sys.exit(7)
    if word == "interrupt":
        raise KeyboardInterrupt
    if word == "memory":
        raise MemoryError
    raise ValueError("the model raised: grüße 😀 \udcff")


def end(word: str) -> None:
    print("last words: grüße", file=sys.stderr, flush=True)
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
        # The signal may come a moment later.
        time.sleep(600)
    if word == "crash":
        ctypes.string_at(0)
    os._exit(7)


class Echo(pillion.Model):
    """Answers with its inputs, but for a few words."""

    def forward(self, batch: list[Any]) -> list[Any]:
        words = [item for item in batch if isinstance(item, str)]
        if "raise" in words:
            raise ValueError("asked to: grüße 😀 \udcff")
        if "leave" in words:
            end("leave")
        if "fewer" in words:
            return batch[1:]
        return [self.answer(item) for item in batch]

    def answer(self, item: Any) -> Any:
        if not isinstance(item, str):
            return item
        return {"error": KeyError("grüße"), "odd": object(), "long": "x" * (2 << 20)}.get(item, item)


class Broken(pillion.Model):
    """Cannot be loaded."""

    def load(self, context: pillion.Context) -> None:
        raise ValueError("no weights")


class Keeper(pillion.Model):
    """Answers with its arrays, keeps views of some, and looks whether any of them has changed."""

    def load(self, context: pillion.Context) -> None:
        import torch

        self.torch = torch
        self.kept: list[tuple[Any, ...]] = []

    def forward(self, batch: list[Any]) -> list[Any]:
        (array,) = batch
        if len(self.kept) < KEPT:
            views = (array[2:], memoryview(array)[::2], self.torch.from_numpy(array)[1:])
            self.kept.append((*views, int(array[0])))
        for part, memory, tensor, value in self.kept:
            if (part != value).any() or memory[-1] != value or bool((tensor != value).any()):
                raise ValueError("a view has changed")
        return [{"same": array, "strided": array[::2]}]
