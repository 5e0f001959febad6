"""The one handler behind every bridge: what Rust asks of the Python side, whichever way it asks.

A bridge makes a `Handler`, tells Rust its `info()`, and hands it step records. `step` never raises for what a model
does: an error becomes part of the output record, and the handler goes on.
"""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import os
import platform
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol

import pillion
from pillion import _forward, _step
from pillion._config import ClassModel, LoadConfig, PretrainedModel, Progress, set_thread_counts
from pillion.errors import PillionError, error_json
from pillion.runners.callable import CallableRunner

__all__ = ["Handler"]

log = logging.getLogger("pillion")

# Whose versions a user needs to know when a model misbehaves.
_PACKAGES: Final = ("torch", "transformers", "safetensors", "tokenizers", "numpy")


class Runner(Protocol):
    """A loaded model of one kind."""

    def info(self) -> dict[str, Any]:
        """The fields of `pillion_core::ModelInfo`."""

    def run(self, record: bytes | bytearray | memoryview) -> bytes:
        """Answers a record of the kind that it takes; may raise."""

    def close(self) -> None:
        """Drops the model."""

    def trim(self) -> None:
        """Gives its memory back to the system, once nothing refers to it any more."""


class Handler:
    """A loaded model that runs step and forward records."""

    def __init__(self, config: LoadConfig, progress: Progress) -> None:
        """Loads the model; raises `PillionError` where the reason is known."""
        self._pool: _forward.Pool | None = None
        self._runner: Runner | None = _open(config, progress)
        # Looked up once: it is in the way of every step.
        self._run: Callable[[bytes | bytearray | memoryview], bytes] = self._runner.run

    def info(self) -> dict[str, Any]:
        """The fields of `pillion_core::WorkerInfo`."""
        return {
            "version": pillion.__version__,
            "stepVersion": _step.VERSION,
            "pid": os.getpid(),
            "python": {
                "executable": sys.executable or "",
                "version": platform.python_version(),
                "packages": _package_versions(),
            },
            "model": self._running().info(),
        }

    def step(self, record: bytes | bytearray | memoryview) -> bytes:
        """Runs one step or forward; gives its output record, with an error in it if anything raised."""
        try:
            return self._run(record)
        except BaseException as error:
            # Also SystemExit and KeyboardInterrupt: a model that raises them ends its rows, not the application.
            if not isinstance(error, PillionError):
                log.debug("a step raised", exc_info=True)
            if self._pool is not None:
                self._pool.take_back()
            return _forward.failed(record, error_json(error, "forward"))

    def use_pool(self, pool: _forward.Pool) -> None:
        """Large tensors come and go through `pool` from now on, if the model has any."""
        self._pool = pool
        if isinstance(self._runner, CallableRunner):
            self._runner.pool = pool

    def close(self) -> None:
        """Drops the model and gives its memory back. Closing twice is fine."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self._run = _closed
        runner.close()
        # Models are full of reference cycles.
        gc.collect()
        runner.trim()

    def _running(self) -> Runner:
        if self._runner is None:
            raise _model_closed()
        return self._runner


def _closed(_record: bytes | bytearray | memoryview) -> bytes:
    raise _model_closed()


def _model_closed() -> PillionError:
    return PillionError("closed", "the model has been closed")


def _open(config: LoadConfig, progress: Progress) -> Runner:
    if isinstance(config.model, ClassModel):
        set_thread_counts(config.num_threads)
        return CallableRunner(config, config.model, progress)
    return _open_folder(config, config.model, progress)


def _open_folder(config: LoadConfig, source: PretrainedModel, progress: Progress) -> Runner:
    # torch is imported only now, after the cheap refusals and with the thread counts set.
    from pillion.runners._folder import ModelFolder
    from pillion.runners._load import import_packages

    folder = ModelFolder.open(source.path)
    import_packages(config.num_threads, progress)
    from pillion.runners.causal import CausalRunner

    return CausalRunner(config, source, folder, progress)


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


if __name__ == "__main__":
    from pillion._listen import main

    main()
