"""The load configuration as Rust writes it, and what is wrong with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pillion
from pillion._config import ClassModel, LoadConfig, LoadLimits, PretrainedModel
from pillion.errors import InvalidArgumentError

ROOT = Path(__file__).parents[1]

# What serde makes of `pillion_core::LoadConfig`.
WRITTEN: dict[str, Any] = {
    "model": {"kind": "pretrained", "path": "/m", "trustRemoteCode": True},
    "device": "cuda:0",
    "dtype": "bfloat16",
    "numThreads": 3,
    "limits": {"maxContext": 4096, "maxBatchTokens": 512, "maxRunning": 8, "kvCacheBytes": 1 << 40},
}


def test_it_is_read_as_rust_writes_it() -> None:
    assert LoadConfig.from_json(json.dumps(WRITTEN)) == LoadConfig(
        PretrainedModel("/m", True), "cuda:0", "bfloat16", 3, LoadLimits(4096, 512, 8, 1 << 40)
    )


def test_absent_options_are_null() -> None:
    limits = {"maxContext": None, "maxBatchTokens": 1, "maxRunning": 1, "kvCacheBytes": None}
    model = {"kind": "class", "spec": "app/model.py:Name", "options": {"a": [1]}}
    written = {"model": model, "device": None, "dtype": None, "numThreads": 1, "limits": limits, "later": "ignored"}
    assert LoadConfig.from_json(json.dumps(written)) == LoadConfig(
        ClassModel("app/model.py:Name", {"a": [1]}), None, None, 1, LoadLimits(None, 1, 1, None)
    )


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"numThreads": 0}, "numThreads"),
        ({"numThreads": None}, "numThreads"),
        ({"numThreads": True}, "numThreads"),
        ({"numThreads": "2"}, "numThreads"),
        ({"device": 3}, "device"),
        ({"model": {"kind": "other"}}, "model.kind"),
        ({"model": {"kind": "pretrained", "trustRemoteCode": False}}, "model.path"),
        ({"model": {"kind": "pretrained", "path": "/m", "trustRemoteCode": 1}}, "model.trustRemoteCode"),
        ({"limits": {"maxBatchTokens": 1, "maxRunning": -4}}, "limits.maxRunning"),
        ({"limits": {"maxBatchTokens": 1, "maxRunning": 1, "maxContext": 0}}, "limits.maxContext"),
        ({"limits": None}, None),
        ({"model": []}, None),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], param: str | None) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        LoadConfig.from_json(json.dumps(WRITTEN | change))
    assert caught.value.param == param


def test_threads_are_counted_before_torch_is_there() -> None:
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1]);"
        "from pillion._config import set_thread_counts; set_thread_counts(1);"
        "assert 'torch' not in sys.modules;"
        "import torch; print(torch.get_num_threads(), os.environ['OMP_NUM_THREADS'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
        env={key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")},
    )
    assert run.stdout.split() == ["1", "1"]


def test_the_version_is_one() -> None:
    for manifest in (ROOT / "pyproject.toml", ROOT.parent / "Cargo.toml"):
        assert re.findall(r'^version = "(.+)"$', manifest.read_text(), re.MULTILINE) == [pillion.__version__]


def test_public_names_are_there() -> None:
    assert all(hasattr(pillion, name) for name in pillion.__all__)
    assert (ROOT / "pillion" / "py.typed").is_file()
