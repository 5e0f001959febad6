"""grpcio, imported in the way that we need it, or an error that says how to get it."""

from __future__ import annotations

import importlib
import os
from typing import Any, Final

from pillion.errors import PackageMissingError

__all__ = ["DecodeError", "grpc"]


def _import() -> Any:
    # The poller of gRPC's own event engine hands each read from thread to thread: 25 of 90 us of a round trip.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
    imported = []
    for package, module in (("grpcio", "grpc"), ("protobuf", "google.protobuf.message_factory")):
        try:
            imported.append(importlib.import_module(module))
        except ImportError as error:
            raise PackageMissingError(
                f"the grpc bridge needs the package {package}, which cannot be imported",
                remedy="run `pip install 'pillion[grpc]'` in the worker's environment, or use the shm bridge",
            ) from error
    return imported[0]


grpc: Final = _import()
"""The module."""

DecodeError: Final[Any] = importlib.import_module("google.protobuf.message").DecodeError
"""What reading a message raises."""
