"""What several test files share: tiny models, made once per run, and handlers on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import models
from pillion._config import LoadConfig, LoadLimits, PretrainedModel, set_thread_counts
from pillion.worker import Handler

set_thread_counts(2)

ModelFolders = Callable[[str], Path]
Open = Callable[..., Handler]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelFolders:
    """The folder of a tiny random model of an architecture."""
    root = tmp_path_factory.mktemp("models")

    def folder(arch: str) -> Path:
        out = root / arch
        models.make_tiny(out, arch, seed=0)
        return out

    return folder


@pytest.fixture
def open_model() -> Iterator[Open]:
    """Opens handlers and closes them at the end of the test."""
    opened: list[Handler] = []

    def open_it(path: Path | str, num_slots: int = 8, dtype: str | None = "float32", **limits: Any) -> Handler:
        handler = Handler(load_config(path, num_slots, dtype, **limits), lambda *_: None)
        opened.append(handler)
        return handler

    yield open_it
    for handler in opened:
        handler.close()


def load_config(path: Path | str, num_slots: int = 8, dtype: str | None = "float32", **limits: Any) -> LoadConfig:
    """A configuration for a folder."""
    return LoadConfig(
        model=PretrainedModel(str(path)),
        device="cpu",
        dtype=dtype,
        num_threads=2,
        limits=LoadLimits(max_running=num_slots, **limits),
    )


@pytest.fixture(scope="session")
def real_model() -> Path:
    """SmolLM2's folder, where the machine has one."""
    path = Path(os.environ.get("PILLION_TEST_MODEL") or Path(__file__).parents[2] / ".models" / "smollm2")
    if not (path / "config.json").is_file():
        pytest.skip("no SmolLM2 here: set PILLION_TEST_MODEL or run scripts/models.py smollm2")
    return path
