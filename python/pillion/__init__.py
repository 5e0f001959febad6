"""The Python side of pillion: weights and forward passes for the Rust core.

Importing this package imports neither torch nor numpy; both wait until a model is loaded, after the thread counts
are set.
"""

from pillion.errors import (
    ERROR_CODES,
    InvalidArgumentError,
    ModelLoadError,
    ModelNotFoundError,
    PackageMissingError,
    PillionError,
    StepRecordError,
    UnsupportedError,
)
from pillion.model import Context, Model

__all__ = [
    "ERROR_CODES",
    "Context",
    "InvalidArgumentError",
    "Model",
    "ModelLoadError",
    "ModelNotFoundError",
    "PackageMissingError",
    "PillionError",
    "StepRecordError",
    "UnsupportedError",
    "__version__",
]

# Equal to the version of the Rust crates and of the npm package; another one is refused when the bridge starts.
__version__ = "0.1.0"
