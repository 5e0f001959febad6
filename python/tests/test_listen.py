"""`python -m pillion.worker`, as people start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pillion import _listen
from pillion._config import ClassModel

ROOT = Path(__file__).parents[1]


def worker(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pillion.worker", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_what_it_is_told_becomes_the_load_configuration() -> None:
    options = _listen._parse(
        ["--listen", "unix:/run/w", "--model", "m", "--dtype", "float32", "--max-running", "4", "--kv-cache-bytes", "9"]
    )
    config = _listen._config(options)
    assert os.path.isabs(getattr(config.model, "path", ""))
    assert (config.dtype, config.limits.max_running, config.limits.kv_cache_bytes) == ("float32", 4, 9)
    assert (config.limits.max_context, config.limits.max_batch_tokens) == (None, 2048)


def test_a_class_may_be_served_too() -> None:
    options = _listen._parse(["--listen", "unix:/run/w", "--class", "m.py:M", "--options", '{"a": [1]}'])
    assert _listen._config(options).model == ClassModel("m.py:M", {"a": [1]})
    assert _listen._config(_listen._parse(["--listen", "unix:/w", "--class", "m:M"])).model == ClassModel("m:M")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--listen", "unix:/w"],
        ["--listen", "unix:/w", "--model", "m", "--max-running", "0"],
        ["--listen", "unix:/w", "--model", "m", "--class", "m.py:M"],
        ["--listen", "unix:/w", "--class", "m.py:M", "--options", "{"],
    ],
)
def test_wrong_arguments_are_refused_with_the_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _listen._parse(arguments)
    assert caught.value.code == 2


def test_a_model_that_is_not_there_ends_it_and_takes_the_socket_away(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    folder.mkdir(mode=0o700)
    ended = worker("--listen", f"unix:{folder}/s", "--model", str(tmp_path / "nowhere"))
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "model_not_found: " in ended.stderr
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_open_to_others_is_refused_with_a_hint(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    ended = worker("--listen", f"unix:{tmp_path}/s", "--model", str(tmp_path))
    assert ended.returncode == 1
    first, second = ended.stderr.splitlines()
    assert first == f"bridge_unavailable: the socket's folder {tmp_path} is open to others"
    assert second == f"hint: use a folder of your own: mkdir -m 700 {tmp_path}"


def test_an_address_that_is_none_is_named(tmp_path: Path) -> None:
    ended = worker("--listen", "/run/w", "--model", str(tmp_path))
    assert ended.returncode == 1
    assert "invalid_argument: the address must be unix: and an absolute path, got '/run/w'" in ended.stderr
