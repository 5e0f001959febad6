"""The library of the Rust side, where there is one. What it does is written in Python too, so it may be missing.

In the embedded bridge it has put itself among the loaded modules. A worker is told its path by
`PILLION_BRIDGE_LIBRARY`.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from typing import Any, Final

__all__ = ["native"]

_NAME: Final = "pillion_bridge"


def _find() -> Any:
    module = sys.modules.get(_NAME)
    path = os.environ.get("PILLION_BRIDGE_LIBRARY")
    if module is None and path:
        loader = ExtensionFileLoader(_NAME, path)
        spec = spec_from_loader(_NAME, loader)
        assert spec is not None
        try:
            module = module_from_spec(spec)
            loader.exec_module(module)
        except ImportError:
            # Not there, or of another machine, libc or Python.
            return None
    return module if hasattr(module, "ForwardWriter") else None


native: Final[Any] = _find()
