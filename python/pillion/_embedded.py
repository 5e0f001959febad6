"""What the embedded bridge calls, with nothing but strings and bytes: `boot` once, `open` per model, `shutdown` at
the end.

In this bridge Python lives in somebody else's process, whose stdout and stderr are not ours: whatever Python code
prints, logs or warns of goes as whole lines to the `log` function that `boot` is given.
"""

from __future__ import annotations

import atexit
import io
import json
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

import pillion
from pillion._config import LoadConfig
from pillion._forward import Placed
from pillion._views import bytes_type, ctypes, view_of
from pillion.errors import StepRecordError
from pillion.runners._arrays import copy_array
from pillion.worker import Handler

__all__ = ["EmbeddedHandler", "boot", "open", "shutdown"]

# Called with a level and a text, and with the id of the request that it is about where that is known.
Log: TypeAlias = Callable[..., None]
Reserve: TypeAlias = Callable[[int], memoryview | None]


class HeldTensor(Protocol):
    """An input in the other side's memory, which stays there while this lives."""

    @property
    def address(self) -> int:
        """Where it begins."""

    def __len__(self) -> int: ...

    def copy(self) -> bytes:
        """The same bytes in memory of Python's."""


Input: TypeAlias = bytes | HeldTensor

DEBUG: Final = 0
INFO: Final = 1
WARN: Final = 2
ERROR: Final = 3

# A line that never ends is sent in pieces.
_MAX_LINE: Final = 16 * 1024
# Shorter tensors travel in their record.
_MIN_LEN: Final = 64 << 10


def boot(config_json: str, log: Log) -> str:
    """Takes over `sys.stdout`, `sys.stderr`, `logging` and `warnings`; gives JSON `{"version"}`. A second call replaces
    the first one's `log`."""
    json.loads(config_json)
    sys.stdout = LineWriter(log, INFO)
    sys.stderr = LineWriter(log, WARN)
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, LogHandler):
            root.removeHandler(handler)
    root.addHandler(LogHandler(log))
    if root.level == logging.WARNING:
        # The level that nobody has set; the other side filters by itself.
        root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    if not getattr(sys, "argv", None):
        sys.argv = [""]
    return json.dumps({"version": pillion.__version__})


def open(config_json: str, progress: Callable[[str], None]) -> EmbeddedHandler:
    """Loads a model. `progress` gets JSON `{"stage", "done", "total"}`."""

    def report(stage: str, done: float, total: float | None) -> None:
        data: dict[str, object] = {"stage": stage, "done": done}
        if total is not None:
            data["total"] = total
        progress(json.dumps(data))

    return EmbeddedHandler(Handler(LoadConfig.from_json(config_json), report))


def shutdown() -> None:
    """Does what the end of a Python process does, short of ending the interpreter: exit functions run, output is
    flushed."""
    try:
        atexit._run_exitfuncs()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        logging.shutdown()


class EmbeddedHandler:
    """A `Handler` that speaks JSON text where it would speak objects."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.step = handler.step
        self._tensors: _Tensors | None = None

    def use_room(self, reserve: Reserve) -> None:
        """Large tensors of results are copied to the memory that `reserve` gives while a forward runs."""
        self._tensors = _Tensors(reserve)
        self._handler.use_pool(self._tensors)

    def forward(self, record: bytes, tensors: list[Input]) -> bytes:
        """Runs one forward record, whose places are `tensors`, from 1 on."""
        if self._tensors is None:
            return self._handler.step(record)
        self._tensors.begin(tensors)
        try:
            return self._handler.step(record)
        finally:
            self._tensors.begin([])

    def info(self) -> str:
        """`pillion_core::WorkerInfo` as JSON."""
        return json.dumps(self._handler.info())

    def close(self) -> None:
        """Drops the model."""
        self._handler.close()


class _Tensors:
    """The tensors beside the record of a forward."""

    def __init__(self, reserve: Reserve) -> None:
        self._reserve = reserve
        self._inputs: list[Input] = []
        self._num_results = 0

    def begin(self, inputs: list[Input]) -> None:
        """Another forward, or none."""
        self._inputs = inputs
        self._num_results = 0

    def lend(self, place: int, offset: int, length: int) -> memoryview:
        """An input, which lives as long as anybody views it."""
        if not 1 <= place <= len(self._inputs) or offset or len(self._inputs[place - 1]) != length:
            raise StepRecordError(f"no tensor of {length} bytes lies at {offset} in place {place}")
        held = self._inputs[place - 1]
        if isinstance(held, bytes):
            return memoryview(held)
        if ctypes is None:
            return memoryview(held.copy())
        return view_of(bytes_type(length).from_address(held.address), held)

    def put(self, array: Any) -> Placed | None:
        """Copies an array of a result, if it is large."""
        if array.nbytes < _MIN_LEN:
            return None
        memory = self._reserve(array.nbytes)
        if memory is None:
            return None
        # The memory is lent for now only, so nobody may view it once this is done.
        with memory:
            copy_array(memory, 0, array)
        self._num_results += 1
        return Placed(self._num_results, 0)

    def take_back(self) -> None:
        """Places that no record names are nobody's."""


class LineWriter(io.TextIOBase):
    """A text stream that sends each finished line to `log`. Safe to write to from several threads."""

    def __init__(self, log: Log, level: int) -> None:
        super().__init__()
        self._log = log
        self._level = level
        self._parts: list[str] = []
        self._held = 0
        self._lock = threading.RLock()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Every text can be sent."""
        return "utf-8"

    def writable(self) -> bool:
        """Yes."""
        return True

    def isatty(self) -> bool:
        """No: nobody can see a cursor move, so that progress bars write lines or stay away."""
        return False

    def write(self, text: str, /) -> int:
        """Sends the lines that `text` finishes and keeps the rest."""
        with self._lock:
            # What stands before a carriage return would be overwritten on a screen.
            *lines, rest = text.split("\n")
            for line in lines:
                self._parts.append(line)
                self._send()
            if rest:
                self._parts.append(rest)
                self._held += len(rest)
                if self._held > _MAX_LINE:
                    self._send()
        return len(text)

    def flush(self) -> None:
        """Sends an unfinished line too."""
        with self._lock:
            if self._parts:
                self._send()

    def _send(self) -> None:
        line = "".join(self._parts).rstrip("\r").rpartition("\r")[2]
        self._parts.clear()
        self._held = 0
        if line.strip():
            self._log(self._level, line)


class LogHandler(logging.Handler):
    """Sends log records to `log`, one call each, with the traceback if there is one."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one record; what cannot be formatted is reported in the way of `logging`."""
        try:
            text = self.format(record)
            name = "" if record.name in ("root", "pillion", "py.warnings") else f"{record.name}: "
            request_id = getattr(record, "request_id", None)
            about = (request_id,) if isinstance(request_id, str) else ()
            self._log(_level(record.levelno), name + text.rstrip("\n"), *about)
        except Exception:
            self.handleError(record)


def _level(number: int) -> int:
    if number >= logging.ERROR:
        return ERROR
    if number >= logging.WARNING:
        return WARN
    return INFO if number >= logging.INFO else DEBUG
