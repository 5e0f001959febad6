"""Runs a user's class, a `pillion.Model` or anything else with a `forward`, over forward records.

Inputs and results cross as JSON with numpy arrays beside it. Nothing of the class's is caught that would hide where it
arose: what it raises goes to the caller as it is, with its traceback.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from pillion._config import ClassModel, LoadConfig, Progress
from pillion._forward import Forward, Pool, Result, decode_forward, encode_forward_output
from pillion._memory import trim_heap
from pillion._requests import log_forward_failure
from pillion.errors import InvalidArgumentError, PillionError, error_json
from pillion.model import Context
from pillion.runners._arrays import as_array, dtype_name, input_array, input_memory, output_tensor, plain
from pillion.runners._find import find_class

__all__ = ["CallableRunner"]

log = logging.getLogger("pillion")

# NaN is no JSON, whatever Python says. Made once: making it costs more than most results.
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain).encode


class CallableRunner:
    """One instance of a user's class."""

    tasks = ("predict",)

    def __init__(self, config: LoadConfig, source: ClassModel, progress: Progress) -> None:
        progress("import", 0, None)
        cls = find_class(source.spec)
        progress("import", 1, 1)
        self.pool: Pool | None = None
        self._config = config
        self._name = cls.__name__
        # What it is asked for by, which another name for the class may be.
        self._known_as = source.spec.rpartition(":")[2].rpartition(".")[2]
        self._model: Any = cls()
        self._forward: Any = getattr(self._model, "forward", None)
        if not callable(self._forward):
            raise InvalidArgumentError(
                f"{source.spec} has no method forward", remedy="derive it from pillion.Model", param="model.class"
            )
        load = getattr(self._model, "load", None)
        if load is not None:
            progress("weights", 0, None)
            load(self._context(source, progress))
            progress("weights", 1, 1)

    def _context(self, source: ClassModel, progress: Progress) -> Context:
        def report(done: float, total: float | None = None) -> None:
            progress("weights", done, total)

        return Context(
            options=source.options,
            device=self._config.device,
            dtype=self._config.dtype,
            num_threads=self._config.num_threads,
            max_batch=self._config.limits.max_running,
            progress=report,
        )

    def info(self) -> dict[str, Any]:
        """The fields of `pillion_core::ModelInfo`. It has neither tokens nor a cache."""
        return {
            "name": self._known_as,
            "tasks": list(self.tasks),
            "device": self._config.device,
            "dtype": self._config.dtype,
            "maxContext": 0,
            "vocabSize": 0,
            "numSlots": self._config.limits.max_running,
            "kvTokens": 0,
            "eosTokenIds": [],
        }

    def run(self, record: bytes | bytearray | memoryview) -> bytes:
        """Answers one forward record."""
        # Arrays view the record for as long as anybody keeps them, so it must be nobody else's.
        data = record if isinstance(record, bytes) else bytes(record)
        forward = decode_forward(data)
        batch = _inputs(forward, data, self.pool)
        begin = time.perf_counter_ns()
        try:
            given = self._forward(batch)
        except BaseException as error:
            log_forward_failure(forward.forward_id, error, data, len(batch))
            raise
        took = time.perf_counter_ns() - begin
        results = _checked(given, len(batch), self._name)
        encoded = (_result(index, value, self.pool) for index, value in enumerate(results))
        return encode_forward_output(forward.forward_id, took, encoded)

    def close(self) -> None:
        """Drops the model."""
        self._model = None
        self._forward = None

    def trim(self) -> None:
        """Gives freed memory back to the system."""
        trim_heap()


def _inputs(forward: Forward, data: bytes, pool: Pool | None) -> list[Any]:
    batch = forward.items
    # All of them first: what has an owner is given back whatever happens.
    memories = [input_memory(data, tensor, pool) for tensor in forward.tensors]
    for tensor, memory in zip(forward.tensors, memories, strict=True):
        array = input_array(memory, tensor)
        if tensor.name is None:
            batch[tensor.item] = array
        else:
            fields = batch[tensor.item]
            if not isinstance(fields, dict):
                raise PillionError("internal", f"a tensor is the field {tensor.name!r} of something that has no fields")
            fields[tensor.name] = array
    return batch


def _checked(given: Any, wanted: int, name: str) -> list[Any]:
    """What `forward` gave, as a list of the right length."""
    if type(given) is list and len(given) == wanted:
        return given
    if isinstance(given, (str, bytes, bytearray, Mapping)) or not hasattr(given, "__len__"):
        said = f"{name}.forward must return a list, got {type(given).__qualname__}"
    elif len(given) != wanted:
        said = f"{name}.forward got {wanted} inputs and returned {len(given)} results"
    else:
        return list(given)
    raise PillionError("python_error", said, remedy="return one result for each input, in the same order")


def _result(index: int, value: Any, pool: Pool | None) -> Result:
    if isinstance(value, BaseException):
        return Result(error_json(value, "forward"), failed=True)
    try:
        return _encoded(value, pool)
    except Exception as error:
        wrapped = PillionError("python_error", f"the result of input {index} cannot be sent: {error}")
        wrapped.__cause__ = error
        return Result(error_json(wrapped, "forward"), failed=True)


def _encoded(value: Any, pool: Pool | None) -> Result:
    array = as_array(value)
    if array is not None:
        return Result("null", tensors=((None, *output_tensor(array, pool)),))
    if not isinstance(value, dict):
        return Result(_text(value))
    arrays = {name: as_array(field) for name, field in value.items() if isinstance(name, str)}
    # The text first: once a tensor has a place, the result must be sent.
    text = _text({name: field for name, field in value.items() if arrays.get(name) is None})
    found = [(name, array) for name, array in arrays.items() if array is not None]
    for _, array in found:
        dtype_name(array)
    return Result(text, tensors=tuple((_well_formed(name), *output_tensor(array, pool)) for name, array in found))


def _text(value: Any) -> str:
    return _well_formed(_encode(value))


def _well_formed(text: str) -> str:
    """A lone surrogate is no text for the other side; it becomes U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
