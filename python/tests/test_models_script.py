"""The script that makes model folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import models


def test_a_tiny_model_is_small_whole_and_repeatable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        assert models.main(["tiny", "--out", str(tmp_path / name), "--arch", "qwen3", "--seed", "3"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'a'}\n{tmp_path / 'b'}\n"
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [
        ".pillion-model.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert sum(path.stat().st_size for path in (tmp_path / "a").iterdir()) < 1_000_000
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert (tmp_path / "a" / file).stat().st_mode & 0o777 == 0o644


def test_a_second_run_changes_nothing_and_other_folders_are_safe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m"
    models.make_tiny(out, "llama", 0)
    before = (out / "model.safetensors").stat().st_mtime_ns
    models.make_tiny(out, "llama", 0)
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    models.make_tiny(out, "llama", 1)
    assert (out / "model.safetensors").stat().st_mtime_ns != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert models.main(["tiny", "--out", str(tmp_path / "mine")]) == 1
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "mine"]


def test_the_tokenizer_is_byte_level_and_knows_its_specials(tmp_path: Path) -> None:
    import tokenizers

    models.train_tiny_tokenizer(tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == models.TINY_VOCAB
    for text in ("def main() -> None:", "żółć 東京 \U0001f600", "a\r\n\tb"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("<|im_end|>").ids == [2]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|im_end|>" and "add_generation_prompt" in config["chat_template"]


def test_rotary_pairs_come_apart_as_transformers_wants_them() -> None:
    heads, half, width = 2, 3, 5
    wanted = torch.arange(heads * 2 * half * width).view(heads, 2, half, width)
    as_gguf = wanted.swapaxes(1, 2).reshape(heads * 2 * half, width)
    assert torch.equal(models.unpermute(as_gguf, heads), wanted.reshape(heads * 2 * half, width))


def test_the_cache_can_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILLION_CACHE", str(tmp_path / "c"))
    assert models.cache_dir() == tmp_path / "c"
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("PILLION_CACHE", str(blocked / "c"))
    assert models.cache_dir() != blocked / "c" and models.cache_dir().is_dir()


def test_smollm2_is_what_was_published(real_model: Path) -> None:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(real_model / "tokenizer.json"))
    assert tokenizer.encode("in 2024").tokens == ["in", "Ġ", "2", "0", "2", "4"]
    assert not list(real_model.glob("*.gguf"))
    assert "quantization_config" not in json.loads((real_model / "config.json").read_text())
