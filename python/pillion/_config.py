"""What Rust tells this side to load, read from JSON once. Knows neither torch nor the model's files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from pillion.errors import InvalidArgumentError

__all__ = ["ClassModel", "LoadConfig", "LoadLimits", "PretrainedModel", "Progress", "set_thread_counts"]

Progress: TypeAlias = Callable[[str, float, "float | None"], None]
"""Called with a stage, how much of it is done and, if known, how much there is."""

# Every library that may start a pool of its own reads one of these when it is loaded.
_THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class PretrainedModel:
    """A folder with `config.json` and safetensors weights."""

    path: str
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True)
class ClassModel:
    """A user's class, as `path/to/file.py:Name` or `module:Name`, and what it finds as `context.options`."""

    spec: str
    options: Any = None


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """The part of the engine's limits that shapes the cache."""

    max_context: int | None = None
    max_batch_tokens: int = 2048
    max_running: int = 32
    kv_cache_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """What to load and within which bounds."""

    model: PretrainedModel | ClassModel
    device: str | None = None
    dtype: str | None = None
    num_threads: int = 1
    limits: LoadLimits = LoadLimits()

    @classmethod
    def from_json(cls, text: str) -> LoadConfig:
        """Reads the JSON that `pillion_core::LoadConfig` writes. Unknown fields are left alone, so that Rust may
        add some."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise InvalidArgumentError(f"the load configuration is not JSON: {error}") from error
        root = _Fields(data, "")
        limits = root.fields("limits")
        return cls(
            model=_model(root.fields("model")),
            device=root.optional("device", str),
            dtype=root.optional("dtype", str),
            num_threads=root.positive("numThreads"),
            limits=LoadLimits(
                max_context=limits.optional_positive("maxContext"),
                max_batch_tokens=limits.positive("maxBatchTokens"),
                max_running=limits.positive("maxRunning"),
                kv_cache_bytes=limits.optional_positive("kvCacheBytes"),
            ),
        )


def set_thread_counts(num_threads: int) -> None:
    """Says to every numeric library that is loaded from now on how many threads it may have."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(num_threads)
    # A waiting OpenMP thread would spin on a core that tokenizing could use.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _model(fields: _Fields) -> PretrainedModel | ClassModel:
    kind = fields.required("kind", str)
    if kind == "pretrained":
        return PretrainedModel(fields.required("path", str), fields.required("trustRemoteCode", bool))
    if kind == "class":
        return ClassModel(fields.required("spec", str), fields.data.get("options"))
    raise InvalidArgumentError(f"model.kind must be pretrained or class, got {kind!r}", param="model.kind")


class _Fields:
    """A JSON object whose fields are checked as they are taken."""

    def __init__(self, data: object, path: str) -> None:
        if not isinstance(data, Mapping):
            raise InvalidArgumentError(f"{path or 'the load configuration'} must be an object, got {data!r}")
        self.data = data
        self.path = path

    def name(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def fields(self, key: str) -> _Fields:
        return _Fields(self.data.get(key), self.name(key))

    def required(self, key: str, kind: type[Any]) -> Any:
        value = self.optional(key, kind)
        if value is None:
            raise InvalidArgumentError(f"{self.name(key)} is missing", param=self.name(key))
        return value

    def optional(self, key: str, kind: type[Any]) -> Any:
        value = self.data.get(key)
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise InvalidArgumentError(
                f"{self.name(key)} must be of type {kind.__name__}, got {value!r}", param=self.name(key)
            )
        return value

    def positive(self, key: str) -> int:
        value = self.optional_positive(key)
        if value is None:
            raise InvalidArgumentError(f"{self.name(key)} is missing", param=self.name(key))
        return value

    def optional_positive(self, key: str) -> int | None:
        value: int | None = self.optional(key, int)
        if value is not None and value < 1:
            raise InvalidArgumentError(f"{self.name(key)} must be at least 1, got {value}", param=self.name(key))
        return value
