"""Numpy arrays of records, and what in a result counts as an array. Imports numpy only when an input has one, and
never torch."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from pillion._forward import DTYPES, Placed, Pool, Tensor
from pillion.errors import PackageMissingError, StepRecordError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["as_array", "copy_array", "dtype_name", "input_array", "input_memory", "output_tensor", "plain"]

DTYPES_BY_NAME = dict(DTYPES.values())
"""Bytes of an element."""

_names: dict[Any, str] = {}
_dtypes: dict[str, Any] = {}
# Numpy's, once an input has needed it: to import it anew costs more than the rest.
_frombuffer: Any = None


def input_memory(data: bytes, tensor: Tensor, pool: Pool | None) -> memoryview:
    """Where the tensor lies, read-only; it stays there as long as anybody views it."""
    length = DTYPES_BY_NAME[tensor.dtype] * math.prod(tensor.shape)
    if not tensor.place:
        return memoryview(data)[tensor.offset : tensor.offset + length]
    if pool is None:
        raise StepRecordError(f"a tensor lies in place {tensor.place}, and this transport has none")
    return pool.lend(tensor.place, tensor.offset, length)


def input_array(memory: memoryview, tensor: Tensor) -> NDArray[Any]:
    """A read-only view of the memory, which lives as long as any view of it."""
    if _frombuffer is None:
        _import_numpy()
    dtype = _dtypes[tensor.dtype]
    if not len(memory):
        import numpy as np

        nothing: NDArray[Any] = np.empty(tensor.shape, dtype=dtype)
        nothing.flags.writeable = False
        return nothing
    flat: NDArray[Any] = _frombuffer(memory, dtype)
    return flat if len(tensor.shape) == 1 else flat.reshape(tensor.shape)


def _import_numpy() -> None:
    global _frombuffer
    try:
        import numpy as np
    except ModuleNotFoundError as error:
        raise PackageMissingError(
            "an input is a typed array, and the Python package numpy is not installed",
            remedy="install numpy into the model's environment, or send an array of numbers",
        ) from error
    _dtypes.update((name, np.dtype(name)) for name in DTYPES_BY_NAME)
    _frombuffer = np.frombuffer


def as_array(value: Any) -> NDArray[Any] | None:
    """The value as a numpy array if it is one, or a torch tensor of at least one dimension."""
    numpy = sys.modules.get("numpy")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        # Numpy has no such type.
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if numpy is not None and isinstance(value, numpy.ndarray) and value.ndim > 0:
        return value  # type: ignore[no-any-return]
    return None


def dtype_name(array: NDArray[Any]) -> str:
    """What its elements are; raises if no record can say it."""
    dtype = array.dtype
    name = _names.get(dtype)
    if name is None:
        name = str(dtype.name)
        if name != "float16" and name not in DTYPES_BY_NAME:
            raise TypeError(f"an array of dtype {name} has no typed array; convert it with astype() or tolist()")
        # There are only so many, and numpy makes the name anew each time.
        _names[dtype] = name
    return name


def output_tensor(array: NDArray[Any], pool: Pool | None) -> tuple[str, tuple[int, ...], memoryview | Placed]:
    """Dtype, shape, and a view of the bytes, to be copied before the model runs again, or where they were copied to.
    Half precision becomes single, which every receiver knows."""
    name = dtype_name(array)
    if name == "float16":
        name, array = "float32", array.astype("float32")
    placed = None if pool is None else pool.put(array)
    if placed is not None:
        return name, array.shape, placed
    import numpy as np

    # Also big-endian and strided ones.
    flat: Any = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1)
    return name, array.shape, memoryview(flat.view(np.uint8))


def copy_array(memory: Any, offset: int, array: NDArray[Any]) -> None:
    """Copies an array into writable memory, in C order and little-endian. No view of the memory is left."""
    if array.flags.c_contiguous and array.dtype.isnative:
        # A view takes from its like only; a map takes any bytes.
        source: Any = memoryview(array).cast("B") if isinstance(memory, memoryview) else array  # type: ignore[arg-type]
        memory[offset : offset + array.nbytes] = source
        return
    import numpy as np

    dtype = array.dtype if array.dtype.isnative else array.dtype.newbyteorder("<")
    target = np.frombuffer(memory, dtype=dtype, count=array.size, offset=offset)
    # Also strided and big-endian ones, in one go.
    np.copyto(target.reshape(array.shape), array)


def plain(value: Any) -> Any:
    """For `json`: what stands deeper in a result than arrays can be sent as such becomes numbers and lists."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return value.tolist()
    if torch is not None and isinstance(value, torch.Tensor):
        return value.detach().cpu().tolist()
    raise TypeError(f"an object of type {type(value).__qualname__} is no JSON")
