"""Loads a causal language model of transformers: imports, device, dtype, weights. Knows nothing of slots or steps."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pillion._config import LoadConfig, PretrainedModel, Progress, set_thread_counts
from pillion.errors import InvalidArgumentError, ModelLoadError, PackageMissingError, UnsupportedError, is_out_of_memory
from pillion.runners._folder import ModelFolder

if TYPE_CHECKING:
    import torch

__all__ = ["LoadedModel", "import_packages", "load_model"]

log = logging.getLogger("pillion")

_DTYPES: Final = ("float32", "bfloat16", "float16")


@dataclass(slots=True)
class LoadedModel:
    """A model in eval mode on its device."""

    model: Any
    device: torch.device
    dtype: torch.dtype


def import_packages(num_threads: int, progress: Progress) -> None:
    """Imports what the runner needs, with the thread counts set first, and names what is missing."""
    names = ("numpy", "safetensors", "torch", "transformers")
    set_thread_counts(num_threads)
    # Weights are read by this thread alone: each further one would keep up to 64 MiB of freed heap after a close.
    os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")
    for done, name in enumerate(names):
        progress("import", done, len(names))
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise PackageMissingError(
                f"the Python package {error.name or name} is not installed",
                remedy="run `npx pillion setup`, which makes an environment with all that is needed",
            ) from error
        except (ImportError, OSError) as error:
            raise PackageMissingError(
                f"the Python package {name} is installed but cannot be imported: {error}",
                remedy="run `npx pillion setup` in a new folder, or reinstall the package",
            ) from error
    _let_transformers_log_to_us()
    _import_lazy_parts()
    progress("import", len(names), len(names))


def load_model(config: LoadConfig, source: PretrainedModel, folder: ModelFolder, progress: Progress) -> LoadedModel:
    """Loads the weights in the wanted type onto the wanted device."""
    import torch
    import transformers

    torch.set_num_threads(config.num_threads)
    device = _device(config.device)
    dtype = _dtype(config.dtype, device)
    architecture = _configuration(source, folder)
    if getattr(architecture, "is_encoder_decoder", False):
        raise UnsupportedError(
            f"{folder.path} is an encoder-decoder model ({architecture.model_type}); only decoders can generate here",
            param="model",
        )
    try:
        with _weights_progress(progress):
            model = transformers.AutoModelForCausalLM.from_pretrained(
                str(folder.path),
                config=architecture,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=source.trust_remote_code,
                local_files_only=True,
            )
        model = model.to(device).eval()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelLoadError(f"{folder.path} did not load: {type(error).__name__}: {error}", param="model") from error
    model.requires_grad_(False)
    return LoadedModel(model, device, dtype)


def _configuration(source: PretrainedModel, folder: ModelFolder) -> Any:
    import transformers

    kind = folder.config.get("model_type")
    try:
        architecture = transformers.AutoConfig.from_pretrained(
            str(folder.path), trust_remote_code=source.trust_remote_code, local_files_only=True
        )
    except Exception as error:
        if "auto_map" in folder.config and not source.trust_remote_code:
            raise UnsupportedError(
                f"{folder.path} brings its own Python code for {kind!r}, which is not run unless asked for",
                remedy="if you trust it, pass trustRemoteCode: true",
                param="trustRemoteCode",
            ) from error
        if isinstance(kind, str) and kind not in transformers.CONFIG_MAPPING:
            raise UnsupportedError(
                f"transformers {transformers.__version__} does not know the architecture {kind!r} of {folder.path}",
                remedy="install a transformers version that knows it",
                param="model",
            ) from error
        raise ModelLoadError(f"{folder.path / 'config.json'} was refused: {error}", param="model") from error
    known = type(architecture) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    remote = source.trust_remote_code and "AutoModelForCausalLM" in (folder.config.get("auto_map") or {})
    if not known and not remote and not getattr(architecture, "is_encoder_decoder", False):
        raise UnsupportedError(
            f"{folder.path} is a {kind!r} model, which transformers cannot use to generate text", param="model"
        )
    return architecture


def _device(name: str | None) -> torch.device:
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UnsupportedError(f"the device {name!r} cannot be used here: {error}", param="device") from error
    if device.type == "meta":
        raise UnsupportedError("the device 'meta' holds no data", param="device")
    return device


def _dtype(name: str | None, device: torch.device) -> torch.dtype:
    import torch

    if name is None:
        return _fast_dtype(device)
    if name not in _DTYPES:
        raise InvalidArgumentError(f"dtype must be one of {', '.join(_DTYPES)}, got {name!r}", param="dtype")
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, float32 elsewhere."""
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    # Measured on a 135M model: 1.3 to 1.5 times float32 in decode, twice in prefill.
    native = capabilities.get("amx_bf16", False) or capabilities.get("avx512_bf16", False)
    return torch.bfloat16 if native else torch.float32


@contextmanager
def _weights_progress(progress: Progress) -> Iterator[None]:
    """Turns the loader's own progress bar into our stage `weights`."""
    from transformers.utils import logging as transformers_logging

    total: int | None = None

    class Bar:
        """As much of a tqdm bar as the loader uses."""

        def __init__(self, items: Any = None, total: int | None = None, **_: object) -> None:
            self.items = items
            self.total = len(items) if total is None and items is not None else total

        def __iter__(self) -> Iterator[Any]:
            nonlocal total
            total = self.total
            step = max(1, (self.total or 1) // 100)
            for done, item in enumerate(self.items):
                if done % step == 0:
                    progress("weights", done, self.total)
                yield item

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *_args, **_kwargs: None

    progress("weights", 0, None)
    previous = transformers_logging.set_tqdm_hook(lambda _factory, args, kwargs: Bar(*args, **kwargs))
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(previous)
    progress("weights", total or 1, total or 1)


def _import_lazy_parts() -> None:
    """transformers imports most of itself on first use, which would pass for slow weights."""
    import transformers

    for name in ("AutoConfig", "AutoModelForCausalLM", "DynamicCache"):
        getattr(transformers, name)


def _let_transformers_log_to_us() -> None:
    """Its own handler writes to the process's stderr, past whatever the application has set up."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
