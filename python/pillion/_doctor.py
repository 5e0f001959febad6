"""The model that `pillion doctor` loads over each bridge: gives inputs back, and says what the libraries around it do.

Imported inside the process that a user's model would run in, since there, and not in a plain interpreter, is where a
library may find another libstdc++, another OpenSSL or no room.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from typing import Any

__all__ = ["Probe"]


class Probe:
    """Answers `{"import": names}` with what comes of importing them, and everything else with itself."""

    def forward(self, batch: list[Any]) -> list[Any]:
        """One result for each input."""
        return [_libraries(item["import"]) if isinstance(item, dict) and "import" in item else item for item in batch]


def _libraries(names: list[str]) -> dict[str, Any]:
    packages = {name: _imported(name) for name in names}
    torch = sys.modules.get("torch")
    working = torch is not None and packages.get("torch", {}).get("error") is None
    return {"packages": packages, "torch": _torch(torch) if working else None}


def _imported(name: str) -> dict[str, str | None]:
    try:
        if importlib.util.find_spec(name) is None:
            return {"version": None, "error": None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
        return {"version": str(getattr(module, "__version__", "unknown")), "error": None}
    except BaseException as error:
        return {"version": None, "error": _line(error)}


def _torch(torch: Any) -> dict[str, Any]:
    mps = getattr(torch.backends, "mps", None)
    return {
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "mps": bool(mps is not None and mps.is_available()),
        "cuda": _cuda(torch),
    }


def _cuda(torch: Any) -> dict[str, Any]:
    """What torch was built for, the devices that it sees, and if there are none, why."""
    built = torch.version.cuda or torch.version.hip
    found: dict[str, Any] = {"built": built, "devices": [], "reason": None}
    if built is None:
        return {**found, "reason": "this build of torch is for the CPU"}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            torch.cuda.init()
            found["devices"] = [_device(torch, index) for index in range(torch.cuda.device_count())]
        except Exception as error:
            found["reason"] = _first_line(str(error)) or type(error).__name__
    if not found["devices"] and found["reason"] is None:
        found["reason"] = _first_line(str(said[0].message)) if said else "torch sees no device"
    return found


def _device(torch: Any, index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {"name": properties.name, "memoryBytes": properties.total_memory}


def _line(error: BaseException) -> str:
    text = _first_line(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:500]
