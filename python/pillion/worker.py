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
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

import pillion
from pillion import _step
from pillion._config import ClassModel, LoadConfig, Progress
from pillion._requests import RequestNames
from pillion.errors import PillionError, UnsupportedError, error_json

if TYPE_CHECKING:
    from pillion.runners.causal import CausalRunner

__all__ = ["Handler"]

log = logging.getLogger("pillion")

# Whose versions a user needs to know when a model misbehaves.
_PACKAGES: Final = ("torch", "transformers", "safetensors", "tokenizers", "numpy")


class Handler:
    """A loaded model that runs step records."""

    def __init__(self, config: LoadConfig, progress: Progress) -> None:
        """Loads the model; raises `PillionError` where the reason is known."""
        if isinstance(config.model, ClassModel):
            raise UnsupportedError(
                f"this version runs model folders, not classes ({config.model.spec})",
                remedy="pass the path of a model folder",
                param="model",
            )
        # torch is imported only now, after the cheap refusals and with the thread counts set.
        from pillion.runners._folder import ModelFolder
        from pillion.runners._load import import_packages

        folder = ModelFolder.open(config.model.path)
        import_packages(config.num_threads, progress)
        from pillion.runners.causal import CausalRunner

        self._runner: CausalRunner | None = CausalRunner(config, config.model, folder, progress)
        self._requests = RequestNames()

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
        """Runs one step record; gives its output record, with an error in it if anything raised."""
        step = None
        try:
            step = _step.decode_step(record)
            if step.new or step.freed:
                self._requests.follow(step)
            return self._running().step(step)
        except BaseException as error:
            # Also SystemExit and KeyboardInterrupt: a model that raises them ends its rows, not the application.
            if step is not None and not isinstance(error, PillionError):
                self._requests.log_failure(step, error)
            return _step.encode_output(_step_id(record), 0, error=error_json(error, "forward"))

    def close(self) -> None:
        """Drops the model and gives its memory back. Closing twice is fine."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        runner.close()
        # Models are full of reference cycles.
        gc.collect()
        runner.trim()

    def _running(self) -> CausalRunner:
        if self._runner is None:
            raise PillionError("closed", "the model has been closed")
        return self._runner


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _step_id(record: bytes | bytearray | memoryview) -> int:
    """The id of a record that may be damaged; 0 if it has none."""
    try:
        return int(struct.unpack_from("<Q", record, 16)[0])
    except (struct.error, TypeError, BufferError):
        return 0


if __name__ == "__main__":
    from pillion._listen import main

    main()
