"""The model that `pillion doctor` loads."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pillion._doctor import Probe, _cuda


def test_inputs_come_back() -> None:
    inputs = [1, "a", None, {"a": 1}, []]
    assert Probe().forward(inputs) == inputs


def test_packages_are_imported_or_said_why_not(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    (tmp_path / "good_package.py").write_text("__version__ = '1.2'")
    (tmp_path / "bad_package.py").write_text("raise ImportError('first line\\nsecond line')")
    (tmp_path / "leaving_package.py").write_text("raise SystemExit")
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so: cannot open shared object file')")
    names = ["good_package", "bad_package", "leaving_package", "no_such_package", "torch"]
    (found,) = Probe().forward([{"import": names}])
    assert found["packages"] == {
        "good_package": {"version": "1.2", "error": None},
        "bad_package": {"version": None, "error": "ImportError: first line"},
        "leaving_package": {"version": None, "error": "SystemExit"},
        "no_such_package": {"version": None, "error": None},
        "torch": {"version": None, "error": "OSError: libcudart.so: cannot open shared object file"},
    }
    assert found["torch"] is None


def _torch(built: str | None, names: list[str], error: str | None = None) -> Any:
    def init() -> None:
        if error is not None:
            raise RuntimeError(error)

    torch = ModuleType("torch")
    torch.version = SimpleNamespace(cuda=built, hip=None)  # type: ignore[attr-defined]
    torch.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        init=init,
        device_count=lambda: len(names),
        get_device_properties=lambda index: SimpleNamespace(name=names[index], total_memory=8),
    )
    return torch


@pytest.mark.parametrize(
    ("torch", "devices", "reason"),
    [
        (_torch(None, []), [], "this build of torch is for the CPU"),
        (_torch("13.2", [], "no driver\nsee the manual"), [], "no driver"),
        (_torch("13.2", []), [], "torch sees no device"),
        (_torch("13.2", ["H200"]), [{"name": "H200", "memoryBytes": 8}], None),
    ],
)
def test_devices_or_the_reason(torch: Any, devices: list[Any], reason: str | None) -> None:
    found = _cuda(torch)
    assert (found["devices"], found["reason"]) == (devices, reason)
