"""A small scheduler for tests: sequences join and leave a running batch, prompts go in chunks, slots are used again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pillion._step import NO_TOKEN, ROW_MASKED, ROW_SAMPLE, SEQUENCE_LOGPROBS
from pillion.worker import Handler
from records import Output, StepRecord, decode_output, sequence


@dataclass
class Request:
    """What is asked, and what has come of it."""

    prompt: list[int]
    max_tokens: int
    params: dict[str, Any] = field(default_factory=dict)
    joins_at: int = 0
    logprobs: int | None = None
    bitmask: list[int] | None = None
    tokens: list[int] = field(default_factory=list)
    token_logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    failed: bool = False
    slot: int = -1
    done: int = 0
    """Positions computed so far."""

    @property
    def max_len(self) -> int:
        """Positions that it may come to use."""
        return len(self.prompt) + self.max_tokens


class Driver:
    """Runs requests through a handler, as Rust would."""

    def __init__(
        self,
        handler: Handler,
        num_slots: int,
        chunk: int = 1 << 20,
        reverse_rows: bool = False,
        kv_tokens: int = 1 << 30,
    ) -> None:
        self.handler = handler
        self.kv_tokens = kv_tokens
        self.chunk = chunk
        self.reverse_rows = reverse_rows
        self.free = list(range(num_slots))
        self.freed: list[int] = []
        self.steps = 0

    def run(self, requests: list[Request]) -> None:
        """Until all have their tokens."""
        running: list[Request] = []
        waiting = list(requests)
        while waiting or running:
            record = StepRecord(step_id=self.steps, freed=self.freed)
            self.free = sorted(self.free + self.freed)
            self.freed = []
            while waiting and waiting[0].joins_at <= self.steps and self.free:
                if sum(request.max_len for request in [*running, waiting[0]]) > self.kv_tokens:
                    break
                request = waiting.pop(0)
                self._enter(record, request)
                running.append(request)
            order = running[::-1] if self.reverse_rows else running
            output = self.send(record, order)
            self._update(output, order)
            for request in running:
                if len(request.tokens) == request.max_tokens or request.failed:
                    self.freed.append(request.slot)
            running = [request for request in running if request.slot not in self.freed]
        self.flush()

    def flush(self) -> None:
        """Tells the handler which slots have become free, in a step without rows."""
        output = self.send(StepRecord(step_id=self.steps, freed=self.freed), [])
        assert output.error is None, output.error
        self.free = sorted(self.free + self.freed)
        self.freed = []

    def send(self, record: StepRecord, running: list[Request]) -> Output:
        """One step with a row for every running request."""
        for request in running:
            known = len(request.prompt) + len(request.tokens)
            count = min(self.chunk, known - request.done)
            last = request.done + count == known
            flags = (ROW_SAMPLE if last else 0) | (ROW_MASKED if last and request.bitmask else 0)
            if flags & ROW_MASKED:
                record.bitmask.extend(request.bitmask or ())
            record.rows.append((request.slot, request.done, count, flags))
        output = decode_output(self.handler.step(record.encode()))
        assert output.step_id == record.step_id
        self.steps += 1
        return output

    def _enter(self, record: StepRecord, request: Request) -> None:
        request.slot = self.free.pop(0)
        flags = 0 if request.logprobs is None else SEQUENCE_LOGPROBS
        fields = {"max_len": request.max_len, "flags": flags} | request.params
        fields["logprobs"] = request.logprobs or 0
        record.new.append(sequence(request.slot, len(record.prompts), len(request.prompt), **fields))
        record.prompts.extend(request.prompt)

    def _update(self, output: Output, running: list[Request]) -> None:
        assert output.error is None, output.error
        index = 0
        for request in running:
            known = len(request.prompt) + len(request.tokens)
            request.done += min(self.chunk, known - request.done)
            if request.done < known:
                continue
            token = output.tokens[index]
            if token == NO_TOKEN:
                request.failed = True
            else:
                request.tokens.append(token)
                if request.logprobs is not None:
                    request.token_logprobs.append(output.logprobs[index])
                    request.top.append([(id, value) for at, id, value in output.top if at == index])
            index += 1
        assert index == len(output.tokens)
