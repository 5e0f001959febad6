"""What the embedded bridge relies on: whole lines to `log`, JSON in and out."""

from __future__ import annotations

import ctypes
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pillion
from conftest import ModelFolders
from pillion import _embedded
from pillion.errors import InvalidArgumentError, StepRecordError
from records import StepRecord, decode_output, sequence

Lines = list[tuple[Any, ...]]
Boot = Callable[[], Lines]


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Boot]:
    """Boots when called (pytest sets the streams anew between a fixture and its test), and puts everything back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def run() -> Lines:
        lines: Lines = []
        monkeypatch.setattr(sys, "stdout", sys.stdout)
        monkeypatch.setattr(sys, "stderr", sys.stderr)
        version = _embedded.boot("{}", lambda *line: lines.append(line))
        assert json.loads(version) == {"version": pillion.__version__}
        return lines

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_what_is_printed_comes_in_lines(boot: Boot) -> None:
    booted = boot()
    print("one")
    print("two", end="")
    print(" and three\nfour\n\n", end="")
    sys.stdout.write("last")
    assert booted == [(1, "one"), (1, "two and three"), (1, "four")]
    sys.stdout.flush()
    assert booted[-1] == (1, "last")
    print("oh", file=sys.stderr)
    assert booted[-1] == (2, "oh")


def test_only_the_end_of_an_overwritten_line_is_kept(boot: Boot) -> None:
    booted = boot()
    sys.stderr.write("10%\r50%\r100%\r\n")
    assert booted == [(2, "100%")]


def test_a_line_without_end_is_bounded(boot: Boot) -> None:
    booted = boot()
    for _ in range(100):
        sys.stdout.write("x" * 1000)
    assert booted and all(len(line) < 20_000 for _, line in booted)


def test_the_streams_are_streams(boot: Boot) -> None:
    booted = boot()
    assert not sys.stdout.isatty() and sys.stdout.writable() and sys.stdout.encoding == "utf-8"
    with pytest.raises(OSError):
        sys.stdout.fileno()
    assert sys.stdout.write("\ud800\n") == 2
    assert booted == [(1, "\ud800")]


def test_logging_keeps_its_levels(boot: Boot) -> None:
    booted = boot()
    logging.getLogger("pillion").info("hello %d", 1)
    logging.getLogger("some.library").warning("careful")
    logging.getLogger("some.library").debug("not asked for")
    try:
        raise ValueError("inside")
    except ValueError:
        logging.getLogger("x").exception("failed")
    assert booted[:2] == [(1, "hello 1"), (2, "some.library: careful")]
    assert booted[2][0] == 3 and booted[2][1].startswith("x: failed\nTraceback") and "inside" in booted[2][1]


def test_the_request_that_a_record_is_about_comes_with_it(boot: Boot) -> None:
    booted = boot()
    logging.getLogger("x").warning("slow", extra={"request_id": "r-ü"})
    logging.getLogger("x").warning("slow", extra={"request_id": 7})
    assert booted == [(2, "x: slow", "r-ü"), (2, "x: slow")]


def test_warnings_are_logged(boot: Boot) -> None:
    booted = boot()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert len(booted) == 1 and booted[0][0] == 2 and "DeprecationWarning: old" in booted[0][1]


def test_a_second_boot_replaces_the_first(boot: Boot) -> None:
    booted = boot()
    more = boot()
    logging.getLogger("pillion").warning("once")
    assert more == [(2, "once")] and not booted


def config(path: Path | str) -> str:
    return json.dumps(
        {
            "model": {"kind": "pretrained", "path": str(path), "trustRemoteCode": False},
            "device": None,
            "dtype": "float32",
            "numThreads": 2,
            "limits": {"maxContext": 64, "maxBatchTokens": 128, "maxRunning": 2, "kvCacheBytes": None},
        }
    )


def test_a_model_is_opened_stepped_and_closed(tiny: ModelFolders) -> None:
    said: list[dict[str, object]] = []
    handler = _embedded.open(config(tiny("llama")), lambda text: said.append(json.loads(text)))
    stages = [str(report["stage"]) for report in said]
    assert list(dict.fromkeys(stages)) == ["import", "weights", "check", "warmup"]
    for stage in dict.fromkeys(stages):
        last = [report for report in said if report["stage"] == stage][-1]
        assert last["done"] == last["total"]
    info = json.loads(handler.info())
    assert info["version"] == pillion.__version__ and info["stepVersion"] == 1 and info["pid"] > 0
    assert info["python"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert set(info["python"]["packages"]) >= {"torch", "transformers", "safetensors", "numpy"}
    assert info["model"] == {
        "name": "llama",
        "tasks": ["generate"],
        "tier": "slots",
        "tierReason": None,
        "dtype": "float32",
        "device": "cpu",
        "maxContext": 64,
        "vocabSize": 512,
        "numSlots": 2,
        "kvTokens": 128,
        "eosTokenIds": [2],
        "defaults": {"temperature": 0.0, "topP": 1.0, "topK": 0, "minP": 0.0},
    }
    record = StepRecord(step_id=9, new=[sequence(0, 0, 2, max_len=8)], prompts=[4, 5], rows=[(0, 0, 2, 1)])
    output = decode_output(handler.step(record.encode()))
    assert output.error is None and len(output.tokens) == 1 and output.forward_ns > 0
    handler.close()
    error = decode_output(handler.step(record.encode())).error
    assert error is not None and error["code"] == "closed"


def test_a_configuration_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        _embedded.open("{", lambda _: None)


def test_a_damaged_record_is_answered(tiny: ModelFolders) -> None:
    handler = _embedded.open(config(tiny("llama")), lambda _: None)
    good = StepRecord(step_id=77).encode()
    for record, step_id in ((good[:30], 77), (good[:10], 0), (b"", 0), (good[:4] + b"\2" + good[5:], 77)):
        output = decode_output(handler.step(record))
        assert output.step_id == step_id and output.error is not None
        assert output.error["code"] in ("internal", "version_mismatch")
    handler.close()


class Held:
    """What the bridge's native code gives for an input that lies in Rust's memory."""

    released = 0

    def __init__(self, data: bytes) -> None:
        self._memory = ctypes.create_string_buffer(data, len(data))
        self.address = ctypes.addressof(self._memory)

    def __len__(self) -> int:
        return len(self._memory)

    def copy(self) -> bytes:
        return self._memory.raw

    def __del__(self) -> None:
        Held.released += 1


@pytest.mark.parametrize("has_ctypes", [True, False])
def test_an_input_in_other_memory_stays_while_anything_views_it(
    has_ctypes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_ctypes:
        monkeypatch.setattr(_embedded, "ctypes", None)
    tensors = _embedded._Tensors(lambda length: None)
    before = Held.released
    for number in range(1000):
        tensors.begin([b"own", Held(bytes([number % 251]) * 1000)])
        memory = tensors.lend(2, 0, 1000)
        array: Any = np.frombuffer(memory, dtype=np.uint8)[2:]
        tensors.begin([])
        assert memory.readonly and not array.flags.writeable
        del memory
        assert Held.released == before + number + (0 if has_ctypes else 1)
        assert (array == number % 251).all()
        del array
        assert Held.released == before + number + 1
    with pytest.raises(StepRecordError, match="no tensor of 1000 bytes"):
        tensors.lend(2, 0, 1000)
