"""Memory that is not Python's, as read-only views that keep its owner."""

from __future__ import annotations

import functools
from typing import Any, Final

__all__ = ["bytes_type", "ctypes", "view_of"]


def _import_ctypes() -> Any:
    """`None` in a Python that was built without libffi."""
    try:
        import ctypes
    except ImportError:
        return None
    return ctypes


ctypes: Final = _import_ctypes()


def view_of(array: Any, owner: object) -> memoryview:
    """A view of a ctypes array of bytes. Whatever views the view keeps the array, and that its attributes."""
    array.owner = owner
    return memoryview(array).toreadonly()


@functools.lru_cache(maxsize=64)
def bytes_type(length: int) -> Any:
    """The ctypes type of so many bytes."""
    return ctypes.c_ubyte * length
