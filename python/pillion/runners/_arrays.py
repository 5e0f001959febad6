"""Numpy arrays of records, and what in a result counts as an array. Imports numpy only when an input has one, and
never torch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pillion._forward import DTYPES, Tensor
from pillion.errors import PackageMissingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["as_array", "input_array", "output_tensor", "plain"]

_NAMES = frozenset(name for name, _ in DTYPES.values())


def input_array(data: bytes, tensor: Tensor) -> NDArray[Any]:
    """A read-only view of the record, which lives as long as any view of it."""
    try:
        import numpy as np
    except ModuleNotFoundError as error:
        raise PackageMissingError(
            "an input is a typed array, and the Python package numpy is not installed",
            remedy="install numpy into the model's environment, or send an array of numbers",
        ) from error
    count = 1
    for size in tensor.shape:
        count *= size
    if not count:
        return np.empty(tensor.shape, dtype=tensor.dtype)
    return np.frombuffer(data, dtype=tensor.dtype, count=count, offset=tensor.offset).reshape(tensor.shape)


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


def output_tensor(array: NDArray[Any]) -> tuple[str, tuple[int, ...], memoryview]:
    """Dtype, shape, and a view of the bytes, to be copied before the model runs again. Half precision becomes single,
    which every receiver knows."""
    import numpy as np

    if array.dtype == np.float16:
        array = array.astype(np.float32)
    name = array.dtype.name
    if name not in _NAMES:
        raise TypeError(f"an array of dtype {name} has no typed array; convert it with astype() or tolist()")
    # Also big-endian and strided ones.
    flat: Any = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1)
    return name, array.shape, memoryview(flat.view(np.uint8))


def plain(value: Any) -> Any:
    """For `json`: what stands deeper in a result than arrays can be sent as such becomes numbers and lists."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return value.tolist()
    if torch is not None and isinstance(value, torch.Tensor):
        return value.detach().cpu().tolist()
    raise TypeError(f"an object of type {type(value).__qualname__} is no JSON")
