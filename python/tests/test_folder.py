"""Folders that cannot be loaded: each is refused with a code, the file's name and, where there is one, a remedy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import ModelFolders, Open
from pillion.errors import PillionError
from pillion.runners._folder import GenerationDefaults, ModelFolder


def make(folder: Path, **files: str | bytes) -> Path:
    """A folder with files whose dots are written as two underscores."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


LLAMA = json.dumps({"model_type": "llama"})


@pytest.mark.parametrize(
    ("files", "code", "said"),
    [
        (None, "model_not_found", "does not exist"),
        ({}, "model_not_found", "no config.json"),
        ({"config__json": "{"}, "model_load_failed", "cannot be read as JSON"),
        ({"config__json": "[]"}, "model_load_failed", "holds list"),
        ({"config__json": LLAMA}, "model_not_found", "no weights"),
        ({"config__json": LLAMA, "pytorch_model__bin": b"x"}, "unsupported", "pytorch_model.bin, a pickle"),
        ({"config__json": LLAMA, "model__pth": b"x"}, "unsupported", "model.pth, a pickle"),
        ({"config__json": LLAMA, "model__gguf": b"x"}, "unsupported", "model.gguf"),
        (
            {
                "config__json": LLAMA,
                "model__safetensors__index__json": json.dumps({"weight_map": {"a": "one.safetensors"}}),
            },
            "model_not_found",
            "names one.safetensors",
        ),
    ],
)
def test_a_folder_is_looked_through(tmp_path: Path, files: dict[str, str | bytes] | None, code: str, said: str) -> None:
    folder = tmp_path / "model" if files is None else make(tmp_path / "model", **files)
    with pytest.raises(PillionError) as caught:
        ModelFolder.open(str(folder))
    assert caught.value.code == code
    assert said in caught.value.message
    assert str(folder) in caught.value.message or "safetensors" in caught.value.message


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(PillionError, match="is a file, not a folder"):
        ModelFolder.open(str(tmp_path / "x"))


def with_generation(tmp_path: Path, generation: dict[str, Any] | None, **config: Any) -> ModelFolder:
    files: dict[str, str | bytes] = {"config__json": json.dumps(config), "model__safetensors": b""}
    if generation is not None:
        files["generation_config__json"] = json.dumps(generation)
    return ModelFolder.open(str(make(tmp_path, **files)))


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": 7}, {"eos_token_id": 3}, [7]),
        ({"eos_token_id": [7, 8]}, {}, [7, 8]),
        ({}, {"eos_token_id": 3}, [3]),
        (None, {"eos_token_id": [3, 4]}, [3, 4]),
        (None, {"text_config": {"eos_token_id": 5}}, [5]),
        (None, {}, []),
        ({"eos_token_id": None}, {"eos_token_id": None}, []),
    ],
)
def test_what_ends_a_text(
    tmp_path: Path, generation: dict[str, Any] | None, config: dict[str, Any], expected: list[int]
) -> None:
    assert with_generation(tmp_path, generation, **config).eos_token_ids() == expected


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (None, GenerationDefaults()),
        ({"temperature": 0.7}, GenerationDefaults()),
        ({"do_sample": False, "temperature": 0.7, "top_k": 3}, GenerationDefaults()),
        ({"do_sample": True}, GenerationDefaults(temperature=1.0)),
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05},
            GenerationDefaults(0.6, 0.9, 20, 0.05),
        ),
        ({"do_sample": True, "top_k": None}, GenerationDefaults(temperature=1.0)),
    ],
)
def test_sampling_defaults(tmp_path: Path, generation: dict[str, Any] | None, expected: GenerationDefaults) -> None:
    assert with_generation(tmp_path, generation).defaults() == expected


def refused(open_model: Open, folder: Path, **options: Any) -> PillionError:
    with pytest.raises(PillionError) as caught:
        open_model(folder, **options)
    return caught.value


def copy_of(tiny: ModelFolders, arch: str, out: Path, **config: Any) -> Path:
    shutil.copytree(tiny(arch), out)
    data = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(data | config))
    return out


def test_an_encoder_decoder_is_unsupported(tiny: ModelFolders, open_model: Open) -> None:
    error = refused(open_model, tiny("t5"))
    assert error.code == "unsupported" and "encoder-decoder model (t5)" in error.message


def test_an_unknown_architecture_is_unsupported(tiny: ModelFolders, tmp_path: Path, open_model: Open) -> None:
    error = refused(open_model, copy_of(tiny, "llama", tmp_path / "m", model_type="nosuchmodel"))
    assert error.code == "unsupported" and "'nosuchmodel'" in error.message and error.remedy


def test_a_model_that_does_not_generate_is_unsupported(tiny: ModelFolders, tmp_path: Path, open_model: Open) -> None:
    error = refused(open_model, copy_of(tiny, "llama", tmp_path / "m", model_type="clip"))
    assert error.code == "unsupported" and "cannot use to generate text" in error.message


def test_code_in_the_folder_does_not_run(tiny: ModelFolders, tmp_path: Path, open_model: Open) -> None:
    auto_map = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    folder = copy_of(tiny, "llama", tmp_path / "m", model_type="own", auto_map=auto_map)
    trap = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(trap)!r}, 'w')\n")
    error = refused(open_model, folder)
    assert error.code == "unsupported" and error.param == "trustRemoteCode"
    assert error.remedy is not None and "trustRemoteCode: true" in error.remedy
    assert not trap.exists()


def test_broken_weights_fail_to_load_with_their_cause(tiny: ModelFolders, tmp_path: Path, open_model: Open) -> None:
    folder = copy_of(tiny, "llama", tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"not a safetensors file at all")
    error = refused(open_model, folder)
    assert error.code == "model_load_failed" and str(folder) in error.message and error.__cause__ is not None


def test_weights_of_another_shape_fail_to_load(tiny: ModelFolders, tmp_path: Path, open_model: Open) -> None:
    error = refused(open_model, copy_of(tiny, "llama", tmp_path / "m", hidden_size=128))
    assert error.code == "model_load_failed"


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"dtype": "int8"}, "invalid_argument", "dtype"),
        ({"dtype": "float64"}, "invalid_argument", "dtype"),
        ({"kv_cache_bytes": 100}, "out_of_memory", "limits.kvCacheBytes"),
    ],
)
def test_options_that_cannot_be(
    tiny: ModelFolders, open_model: Open, options: dict[str, Any], code: str, param: str
) -> None:
    error = refused(open_model, tiny("llama"), **options)
    assert (error.code, error.param) == (code, param)


def test_missing_packages_are_named() -> None:
    """In an interpreter of its own, since torch cannot be unloaded from this one."""
    script = """
import sys
sys.path.insert(0, sys.argv[1])
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[2]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
import pillion
from pillion.runners._load import import_packages
assert "torch" not in sys.modules and "numpy" not in sys.modules
try:
    import_packages(1, lambda *_: None)
except pillion.PackageMissingError as error:
    print(error.code, error.message, error.remedy, sep="|")
"""
    root = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", script, root, "torch"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("python_package_missing|the Python package torch is not installed|")
    assert "npx pillion setup" in done.stdout
