"""What a model folder says about itself, read before torch is imported. Knows file names and JSON, not weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pillion.errors import ModelLoadError, ModelNotFoundError, UnsupportedError

__all__ = ["GenerationDefaults", "ModelFolder"]

_PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_OTHER_WEIGHTS: Final = (".gguf", ".onnx", ".h5", ".msgpack", ".tflite")


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Sampling when the request does not say; temperature 0 where the model's makers do not sample."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder that has been looked through: its weights are there and are safetensors."""

    path: Path
    config: dict[str, Any]
    generation: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str) -> ModelFolder:
        """Looks through `path` and refuses what cannot be loaded, naming the file."""
        folder = Path(path)
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.exists() else "does not exist"
            raise ModelNotFoundError(f"the model folder {path} {what}", param="model")
        if not (folder / "config.json").is_file():
            raise ModelNotFoundError(
                f"{path} has no config.json, so it is no model folder",
                remedy="pass the folder that holds config.json, tokenizer.json and *.safetensors",
                param="model",
            )
        config = _read_json(folder / "config.json")
        _check_weights(folder)
        generation = folder / "generation_config.json"
        return cls(folder, config, _read_json(generation) if generation.is_file() else {})

    @property
    def name(self) -> str:
        """The folder's last part."""
        return self.path.resolve().name

    def eos_token_ids(self) -> list[int]:
        """Ids that end the text, of `generation_config.json` if it names any, else of `config.json`."""
        for source in (self.generation, self.config, self.config.get("text_config") or {}):
            ids = source.get("eos_token_id")
            if isinstance(ids, int):
                return [ids]
            if isinstance(ids, list) and ids:
                return [int(i) for i in ids]
        return []

    def defaults(self) -> GenerationDefaults:
        """The sampling that the model's makers chose: what the file says, and no library's own idea of the rest."""
        said = self.generation
        if not said.get("do_sample"):
            return GenerationDefaults()
        return GenerationDefaults(
            temperature=_number(said.get("temperature"), 1.0),
            top_p=_number(said.get("top_p"), 1.0),
            top_k=int(_number(said.get("top_k"), 0)),
            min_p=_number(said.get("min_p"), 0.0),
        )


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) else default


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read as JSON: {error}", param="model") from error
    if not isinstance(data, dict):
        raise ModelLoadError(f"{path} holds {type(data).__name__} where an object was expected", param="model")
    return data


def _check_weights(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(_read_json(index).get("weight_map", {}).values())
        missing = sorted(shard for shard in shards if not (folder / str(shard)).is_file())
        if missing:
            raise ModelNotFoundError(
                f"{index.name} names {missing[0]}, which is not in {folder} "
                f"({len(missing)} of {len(shards)} files missing)",
                remedy="download the folder again",
                param="model",
            )
        if shards:
            return
    if any(folder.glob("*.safetensors")):
        return
    files = sorted(p.name for p in folder.iterdir() if p.is_file())
    pickled = next((name for name in files if name.endswith(_PICKLED)), None)
    if pickled is not None:
        raise UnsupportedError(
            f"{folder} has its weights only as {pickled}, a pickle, which could run code when it is read",
            remedy="convert it once with transformers' save_pretrained, which writes model.safetensors",
            param="model",
        )
    other = next((name for name in files if name.endswith(_OTHER_WEIGHTS)), None)
    if other is not None:
        raise UnsupportedError(
            f"{folder} has its weights only as {other}; this runner reads safetensors",
            remedy="use the model's safetensors folder",
            param="model",
        )
    raise ModelNotFoundError(
        f"{folder} has no weights (*.safetensors)", remedy="download the folder again, with its weights", param="model"
    )
