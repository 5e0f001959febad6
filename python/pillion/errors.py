"""The errors that this package raises, and how any exception becomes data for the other sides.

    Exception
    └── PillionError               any code of ERROR_CODES
        ├── InvalidArgumentError   invalid_argument
        ├── UnsupportedError       unsupported
        ├── PackageMissingError    python_package_missing
        ├── ModelNotFoundError     model_not_found
        ├── ModelLoadError         model_load_failed
        └── StepRecordError        internal (a record that cannot be read) or version_mismatch

`error_json` gives the same JSON as the Rust type `pillion_core::Error`. Messages are in lower case, without a full
stop, and carry the value that came; the remedy is apart.
"""

from __future__ import annotations

import json
import traceback
from typing import ClassVar, Final

__all__ = [
    "ERROR_CODES",
    "InvalidArgumentError",
    "ModelLoadError",
    "ModelNotFoundError",
    "PackageMissingError",
    "PillionError",
    "StepRecordError",
    "UnsupportedError",
    "error_json",
]

ERROR_CODES: Final = (
    "invalid_argument",
    "invalid_tokenizer",
    "unsupported",
    "context_length_exceeded",
    "schema_violation",
    "native_load_failed",
    "python_not_found",
    "python_unsupported",
    "python_library_missing",
    "python_package_missing",
    "model_not_found",
    "model_load_failed",
    "bridge_unavailable",
    "version_mismatch",
    "queue_full",
    "rate_limited",
    "deadline_exceeded",
    "python_error",
    "worker_lost",
    "out_of_memory",
    "closed",
    "internal",
)
"""Every code of the public contract, in the order of `pillion_core::ErrorCode::ALL`."""

_RETRYABLE: Final = frozenset({"queue_full", "rate_limited", "deadline_exceeded", "worker_lost", "out_of_memory"})
# A chain of exceptions may quote whole tensors.
_MAX_TRACEBACK: Final = 64 * 1024


class PillionError(Exception):
    """An error with a code from the one list. `str()` gives the message alone."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        remedy: str | None = None,
        param: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        """`retryable` is the code's own answer unless given."""
        if code not in ERROR_CODES:
            raise ValueError(f"no such error code: {code!r}")
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy
        self.param = param
        self.retryable = code in _RETRYABLE if retryable is None else retryable


class _Coded(PillionError):
    """A class of errors that has one code."""

    fixed_code: ClassVar[str]

    def __init__(self, message: str, *, remedy: str | None = None, param: str | None = None) -> None:
        super().__init__(self.fixed_code, message, remedy=remedy, param=param)


class InvalidArgumentError(_Coded):
    """A value that a call or an option does not take."""

    fixed_code = "invalid_argument"


class UnsupportedError(_Coded):
    """Something that this version does not do with this model or on this machine."""

    fixed_code = "unsupported"


class PackageMissingError(_Coded):
    """A Python package that the model needs is not installed."""

    fixed_code = "python_package_missing"


class ModelNotFoundError(_Coded):
    """The model folder, or what makes it one, is not there."""

    fixed_code = "model_not_found"


class ModelLoadError(_Coded):
    """The model is there but did not load; `__cause__` says why."""

    fixed_code = "model_load_failed"


class StepRecordError(PillionError):
    """A step record that cannot be read, or that asks for what cannot be: the two sides do not agree."""

    def __init__(self, message: str, *, code: str = "internal") -> None:
        super().__init__(code, message)


def error_json(error: BaseException, stage: str | None = None) -> str:
    """The error as JSON, in the form of `pillion_core::Error`. Any exception of others becomes `python_error`, or
    `out_of_memory` if that is what it says."""
    data: dict[str, object]
    if isinstance(error, PillionError):
        data = {"code": error.code, "message": error.message, "retryable": error.retryable}
        for key, value in (("param", error.param), ("remedy", error.remedy)):
            if value is not None:
                data[key] = value
        if error.__cause__ is not None:
            data["cause"] = _describe(error.__cause__)
    else:
        code = "out_of_memory" if is_out_of_memory(error) else "python_error"
        data = {"code": code, "message": _describe(error), "retryable": code in _RETRYABLE}
        if code == "out_of_memory":
            data["remedy"] = "lower limits.maxRunning, limits.maxBatchTokens or limits.kvCacheBytes, or free memory"
    if stage is not None:
        data["stage"] = stage
    data["python"] = {"pythonType": _type_name(error), "traceback": _traceback(error)}
    # A message may hold a lone surrogate, from a file name for one, which no other side could read.
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")


def is_out_of_memory(error: BaseException) -> bool:
    """torch raises a class of its own for a device's memory and a plain `RuntimeError` for the host's."""
    if isinstance(error, MemoryError) or any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in str(error) or "not enough memory" in str(error)
    )


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as broken:
        text = f"(its text could not be made: {type(broken).__name__})"
    return f"{_type_name(error)}: {text}" if text else _type_name(error)


def _type_name(error: BaseException) -> str:
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _traceback(error: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception as broken:
        text = f"(the traceback could not be made: {type(broken).__name__})"
    if len(text) > _MAX_TRACEBACK:
        head, tail = text[: _MAX_TRACEBACK // 4], text[-_MAX_TRACEBACK * 3 // 4 :]
        text = f"{head}\n... {len(text) - len(head) - len(tail)} characters left out ...\n{tail}"
    return text
