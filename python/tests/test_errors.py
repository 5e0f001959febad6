"""Errors as data: the JSON that `pillion_core::Error` reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pillion import errors
from pillion.errors import ERROR_CODES, InvalidArgumentError, ModelLoadError, PillionError, error_json


def as_data(error: BaseException, stage: str | None = None) -> dict[str, Any]:
    try:
        raise error
    except BaseException as raised:
        data: dict[str, Any] = json.loads(error_json(raised, stage))
    return data


def test_our_own_errors_say_all_they_know() -> None:
    data = as_data(InvalidArgumentError("dtype must be x, got 'y'", remedy="pass x", param="dtype"), "load")
    python = data.pop("python")
    assert data == {
        "code": "invalid_argument",
        "message": "dtype must be x, got 'y'",
        "retryable": False,
        "param": "dtype",
        "remedy": "pass x",
        "stage": "load",
    }
    assert python["pythonType"] == "pillion.errors.InvalidArgumentError"
    assert python["traceback"].startswith("Traceback") and "in as_data" in python["traceback"]


def test_a_cause_is_kept() -> None:
    error = ModelLoadError("did not load")
    error.__cause__ = KeyError("lm_head")
    data = as_data(error)
    assert data["cause"] == "KeyError: 'lm_head'"
    assert "KeyError: 'lm_head'" in data["python"]["traceback"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("bad"), "python_error", "ValueError: bad"),
        (ValueError(), "python_error", "ValueError"),
        (SystemExit(3), "python_error", "SystemExit: 3"),
        (
            json.JSONDecodeError("x", "y", 0),
            "python_error",
            "json.decoder.JSONDecodeError: x: line 1 column 1 (char 0)",
        ),
        (MemoryError(), "out_of_memory", "MemoryError"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory", None),
        (RuntimeError("shape mismatch"), "python_error", "RuntimeError: shape mismatch"),
    ],
)
def test_exceptions_of_others(error: BaseException, code: str, message: str | None) -> None:
    data = as_data(error)
    assert data["code"] == code and data["retryable"] is (code == "out_of_memory")
    assert message is None or data["message"] == message


def test_torchs_own_memory_error_is_known() -> None:
    import torch

    assert as_data(torch.OutOfMemoryError("CUDA out of memory"))["code"] == "out_of_memory"


def test_an_error_that_cannot_speak_does_no_harm() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert "could not be made" in as_data(Mute())["message"]
    assert as_data(ValueError("\ud800"))["message"] == "ValueError: ?"


def test_a_huge_traceback_is_cut_in_the_middle() -> None:
    text = as_data(ValueError("x" * 1_000_000 + "END"))["python"]["traceback"]
    assert len(text) < 70_000 and text.startswith("Traceback") and text.endswith("END\n")


def test_codes_are_checked_and_the_tree_is_drawn() -> None:
    with pytest.raises(ValueError, match="no such error code"):
        PillionError("nonsense", "x")
    assert len(set(ERROR_CODES)) == len(ERROR_CODES) == 22
    assert {code for code in ERROR_CODES if PillionError(code, "").retryable} == {
        "queue_full",
        "rate_limited",
        "deadline_exceeded",
        "worker_lost",
        "out_of_memory",
    }
    assert PillionError("queue_full", "", retryable=False).retryable is False
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, PillionError)]
    public = [c.__name__ for c in classes if not c.__name__.startswith("_")]
    assert all(f" {name} " in f"{errors.__doc__}".replace("\n", " \n") for name in public)
