"""Finds a user's class by its name, `path/to/file.py:Name` or `package.module:Name`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from itertools import chain, count
from pathlib import Path
from types import ModuleType
from typing import Any

from pillion.errors import InvalidArgumentError, ModelNotFoundError

__all__ = ["find_class"]


def find_class(spec: str) -> type[Any]:
    """The class. What its module raises while it is imported is the caller's to see."""
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise InvalidArgumentError(
            f"model.class must be 'path/to/file.py:Name' or 'package.module:Name', got {spec!r}", param="model.class"
        )
    module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        said = "nothing" if found is None else f"no class but {type(found).__qualname__}"
        raise ModelNotFoundError(f"{place} has {said} of the name {name}", param="model.class")
    return found


def _from_file(path: Path) -> ModuleType:
    path = path.absolute()
    if not path.is_file():
        raise ModelNotFoundError(f"there is no file {path}", param="model.class")
    # Last, so that the modules beside it are found but hide no other.
    _look_in(path.parent)
    name = _free_name(path)
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ModelNotFoundError(f"{path} is no Python file", param="model.class")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _from_name(name: str) -> ModuleType:
    _look_in(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that it imports in turn is missing for another reason, which its traceback tells.
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        raise ModelNotFoundError(
            f"there is no module {name}",
            remedy="name its file as 'path/to/file.py:Name', or install it into the environment",
            param="model.class",
        ) from error


def _look_in(folder: Path) -> None:
    if os.fspath(folder) not in sys.path:
        sys.path.append(os.fspath(folder))
    importlib.invalidate_caches()


def _free_name(path: Path) -> str:
    """The file's own name, so that what is defined there can be pickled; another if that is somebody else's. A file
    that has been loaded before is read anew."""
    own = [path.stem] if path.stem.isidentifier() and path.stem not in sys.stdlib_module_names else []
    names = chain(own, (f"pillion_model_{number}" for number in count()))
    return next(name for name in names if getattr(sys.modules.get(name), "__file__", str(path)) == str(path))
