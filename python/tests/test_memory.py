"""How much memory is free, as systems and containers say it."""

from __future__ import annotations

from pathlib import Path

from pillion._memory import free_host_bytes, trim_heap

KIB = 1024
MEMINFO = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    800 kB\n"


def test_the_smaller_of_machine_and_container(tmp_path: Path) -> None:
    meminfo, group = tmp_path / "meminfo", tmp_path / "cgroup"
    group.mkdir()
    assert free_host_bytes(meminfo, group) > 0
    meminfo.write_text(MEMINFO)
    assert free_host_bytes(meminfo, group) == 800 * KIB
    (group / "memory.current").write_text(f"{300 * KIB}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {50 * KIB}\n")
    (group / "memory.max").write_text("max\n")
    assert free_host_bytes(meminfo, group) == 800 * KIB
    (group / "memory.max").write_text(f"{500 * KIB}\n")
    assert free_host_bytes(meminfo, group) == 250 * KIB
    (group / "memory.max").write_text(f"{100 * KIB}\n")
    assert free_host_bytes(meminfo, group) == 0


def test_an_old_container_is_understood(tmp_path: Path) -> None:
    group = tmp_path / "memory"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(f"{400 * KIB}\n")
    (group / "memory.usage_in_bytes").write_text(f"{300 * KIB}\n")
    (group / "memory.stat").write_text(f"total_inactive_file {10 * KIB}\n")
    (tmp_path / "meminfo").write_text(MEMINFO)
    assert free_host_bytes(tmp_path / "meminfo", tmp_path) == 110 * KIB


def test_trimming_does_no_harm() -> None:
    trim_heap()
