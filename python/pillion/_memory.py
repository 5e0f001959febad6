"""How much memory is free, within the bounds that a container sets."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

__all__ = ["free_host_bytes", "trim_heap"]

_CGROUP: Final = Path("/sys/fs/cgroup")


def free_host_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> int:
    """Bytes that can be taken without swapping. Where the system does not say, half of what is built in."""
    bounds = [bound for bound in (_meminfo(meminfo), _cgroup_room(cgroup)) if bound is not None]
    if bounds:
        return max(min(bounds), 0)
    return _installed() // 2


def trim_heap() -> None:
    """Gives freed pages of the C heap back to the system, where glibc would keep them."""
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        # Another C library: it has no such call and needs none.
        return


def _meminfo(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_room(root: Path) -> int | None:
    """What the control group still allows; page cache that can be dropped counts as free."""
    for limit, usage, key in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            bound = (root / limit).read_text(encoding="ascii").strip()
            used = int((root / usage).read_text(encoding="ascii"))
            stat = (root / Path(limit).parent / "memory.stat").read_text(encoding="ascii")
        except (OSError, ValueError):
            continue
        if not bound.isdigit():
            return None
        fields = dict(line.split(maxsplit=1) for line in stat.splitlines() if " " in line)
        return int(bound) - used + int(fields.get(key, 0))
    return None


def _installed() -> int:
    if sys.platform == "win32":
        return _windows_free() * 2
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _windows_free() -> int:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            ("total", ctypes.c_ulonglong),
            ("available", ctypes.c_ulonglong),
            ("rest", ctypes.c_ulonglong * 5),
        )

    status = Status(length=ctypes.sizeof(Status))
    windll = getattr(ctypes, "windll")  # noqa: B009 - typeshed has it on Windows only
    windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.available)
