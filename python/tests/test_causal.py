"""The runner against plain transformers: greedy text, token for token in float32, whatever the batch looks like."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from conftest import ModelFolders, Open
from driver import Driver, Request
from pillion._sampling import uniforms
from pillion._step import NO_TOKEN, ROW_SAMPLE
from pillion.runners import causal
from pillion.worker import Handler
from records import StepRecord, decode_output, sequence

Generate = Callable[[list[int], int], list[int]]


def prompts(count: int, longest: int, seed: int = 1) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, 500) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def plain(path: Path) -> Generate:
    """What transformers gives for one prompt alone."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    def generate(prompt: list[int], max_tokens: int) -> list[int]:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        options = {"do_sample": False, "max_new_tokens": max_tokens, "eos_token_id": None, "pad_token_id": 0}
        output = model.generate(ids, attention_mask=mask, **options)
        return [int(i) for i in output[0, len(prompt) :]]

    return generate


def model_of(handler: Handler) -> Any:
    runner: Any = handler._runner
    assert runner is not None and runner._loaded is not None
    return runner._loaded.model


def run(handler: Handler, texts: list[list[int]], max_tokens: list[int], **options: Any) -> list[list[int]]:
    requests = [Request(text, count, joins_at=i) for i, (text, count) in enumerate(zip(texts, max_tokens, strict=True))]
    Driver(handler, handler.info()["model"]["numSlots"], **options).run(requests)
    return [request.tokens for request in requests]


@pytest.mark.parametrize(
    ("arch", "tier"),
    [
        ("llama", "slots"),
        ("gpt2", "slots"),
        ("mixtral", "slots"),
        ("qwen3", "slots"),
        ("mistral", "slots"),
        ("gemma2", "single"),
        ("mamba", "single"),
    ],
)
def test_greedy_text_is_the_models_own(tiny: ModelFolders, open_model: Open, arch: str, tier: str) -> None:
    """Sequences join one by one, leave when they are done and slots are used again. `mistral` and `gemma2` attend
    through a window that is shorter than the texts."""
    generate = plain(tiny(arch))
    texts = prompts(10, longest=40)
    lengths = [6 + 3 * i for i in range(10)]
    expected = [generate(text, count) for text, count in zip(texts, lengths, strict=True)]
    handler = open_model(tiny(arch), num_slots=4, max_context=128)
    info = handler.info()["model"]
    assert info["tier"] == tier
    assert (info["tierReason"] is None) == (tier == "slots")
    assert run(handler, texts, lengths) == expected
    assert run(handler, texts, lengths, chunk=7, reverse_rows=True) == expected


def test_a_tight_cache_moves_sequences_and_changes_nothing(tiny: ModelFolders, open_model: Open) -> None:
    generate = plain(tiny("llama"))
    texts = prompts(16, longest=50, seed=2)
    rng = random.Random(3)
    lengths = [rng.randrange(1, 40) for _ in texts]
    expected = [generate(text, count) for text, count in zip(texts, lengths, strict=True)]
    bytes_per_token = 2 * 2 * 2 * 16 * 4
    handler = open_model(tiny("llama"), num_slots=6, max_context=128, kv_cache_bytes=200 * bytes_per_token)
    assert handler.info()["model"]["kvTokens"] == 200
    assert run(handler, texts, lengths, chunk=11, kv_tokens=200) == expected


@pytest.mark.parametrize(("kv_tokens", "tier"), [(40, "slots"), (8, "slots"), (3, "single")])
def test_a_cache_smaller_than_the_context_bounds_it(
    tiny: ModelFolders, open_model: Open, kv_tokens: int, tier: str, caplog: pytest.LogCaptureFixture
) -> None:
    handler = open_model(tiny("llama"), num_slots=3, kv_cache_bytes=kv_tokens * 2 * 2 * 2 * 16 * 4)
    info = handler.info()["model"]
    assert (info["kvTokens"], info["maxContext"], info["tier"]) == (kv_tokens, kv_tokens, tier)
    assert f"the KV cache holds {kv_tokens} tokens" in caplog.text
    text = list(range(20, 18 + kv_tokens))
    assert run(handler, [text], [2]) == [plain(tiny("llama"))(text, 2)]


def test_slots_that_come_back_lie_elsewhere(tiny: ModelFolders, open_model: Open) -> None:
    """The same slots decode as before, but their extents have moved: nothing may be remembered of the old ones."""
    generate = plain(tiny("llama"))
    short, long, other = ([7, 8, 9], [i + 20 for i in range(60)], [40, 41])
    handler = open_model(tiny("llama"), num_slots=6, max_context=128, kv_cache_bytes=200 * 2 * 2 * 2 * 16 * 4)
    driver = Driver(handler, 2, kv_tokens=200)
    for texts in ((short, other), (long, short), (other, long)):
        requests = [Request(text, 25) for text in texts]
        driver.run(requests)
        assert [request.tokens for request in requests] == [generate(text, 25) for text in texts]


def test_a_failing_pass_ends_its_rows_only(tiny: ModelFolders, open_model: Open) -> None:
    generate = plain(tiny("llama"))
    first, second, third = prompts(3, longest=20, seed=4)
    handler = open_model(tiny("llama"), num_slots=4, max_context=64)
    request = Request(first, 12)
    driver = Driver(handler, 4)
    record = StepRecord()
    driver._enter(record, request)
    driver._update(driver.send(record, [request]), [request])

    def explode(*_: object) -> None:
        raise ValueError("the model is out of sorts")

    hook = model_of(handler).model.layers[1].register_forward_pre_hook(explode)
    failing = StepRecord(step_id=7)
    doomed = Request(second, 5)
    driver._enter(failing, doomed)
    output = driver.send(failing, [doomed])
    hook.remove()
    assert output.step_id == 7 and not output.tokens and output.error is not None
    assert output.error["code"] == "python_error" and output.error["retryable"] is False
    assert output.error["stage"] == "forward" and "out of sorts" in output.error["message"]
    assert output.error["python"]["pythonType"] == "ValueError"
    assert "in explode" in output.error["python"]["traceback"]

    driver.freed.append(doomed.slot)
    driver.flush()
    later = Request(third, 9)
    record = StepRecord()
    driver._enter(record, later)
    assert later.slot == doomed.slot
    for _ in range(20):
        active = [r for r in (request, later) if len(r.tokens) < r.max_tokens]
        if active:
            driver._update(driver.send(record, active), active)
            record = StepRecord()
    assert request.tokens == generate(first, 12)
    assert later.tokens == generate(third, 9)


def test_running_out_of_memory_has_its_own_code(tiny: ModelFolders, open_model: Open) -> None:
    handler = open_model(tiny("llama"), num_slots=2)

    def explode(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    model_of(handler).register_forward_pre_hook(explode)
    output = Driver(handler, 2)
    request = Request([5], 1)
    record = StepRecord()
    output._enter(record, request)
    error = output.send(record, [request]).error
    assert error is not None and error["code"] == "out_of_memory" and error["retryable"] is True and error["remedy"]


@pytest.mark.parametrize("arch", ["llama", "mamba"])
def test_values_that_are_not_finite_stay_in_their_row(tiny: ModelFolders, open_model: Open, arch: str) -> None:
    """Also in the cache: what a failed sequence left in its slot must not reach those that come after it there."""
    generate = plain(tiny(arch))
    handler = open_model(tiny(arch), num_slots=3, max_context=96)
    poison = 77

    def spoil(_: object, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return torch.where((inputs[0] == poison)[..., None], torch.nan, output)

    model_of(handler).get_input_embeddings().register_forward_hook(spoil)
    texts = [[t for t in text if t != poison] or [5] for text in prompts(9, longest=30, seed=5)]
    requests = [Request(text, 10 + i, joins_at=2 * i) for i, text in enumerate(texts)]
    for i in (0, 3, 4):
        requests.insert(i, Request([9] * 40 + [poison, 4, 4], 20, joins_at=0))
    Driver(handler, 3, chunk=16).run(requests)
    for request in requests:
        if poison in request.prompt:
            assert request.failed and not request.tokens
        else:
            expected = generate(request.prompt, request.max_tokens)
            # A text that comes to say the poisoned token fails there, and not before.
            if poison in expected:
                expected = expected[: expected.index(poison) + 1]
            assert request.tokens == expected


@pytest.mark.parametrize(
    ("arch", "single"), [("llama", False), ("llama", True), ("mistral", False), ("gemma2", True), ("mamba", True)]
)
def test_a_copy_continues_as_the_original(
    tiny: ModelFolders, open_model: Open, monkeypatch: pytest.MonkeyPatch, arch: str, single: bool
) -> None:
    """One sequence computes a prompt; another takes that over whole, a third one only its beginning."""
    if single:
        monkeypatch.setattr(causal, "difference", lambda *_: "for the test")
    generate = plain(tiny(arch))
    handler = open_model(tiny(arch), num_slots=4, max_context=64)
    assert handler.info()["model"]["tier"] == ("single" if single else "slots")

    def send(record: StepRecord) -> list[int]:
        output = decode_output(handler.step(record.encode()))
        assert output.error is None, output.error
        return output.tokens

    shared = [random.Random(6).randrange(3, 500) for _ in range(21)]
    texts = [[*shared, 8, 9], [*shared, 8, 9], [*shared, 30]]
    length = len(texts[0])
    first = sequence(0, 0, length, max_len=40)
    assert send(StepRecord(new=[first], prompts=texts[0], rows=[(0, 0, length - 1, 0)])) == []
    others = [sequence(1, 0, length, max_len=40), sequence(2, length, len(texts[2]), max_len=40)]
    record = StepRecord(new=others, prompts=texts[1] + texts[2], copies=[(0, 1), (0, 2)])
    record.rows = [(1, length - 1, 1, ROW_SAMPLE), (2, len(shared), 1, ROW_SAMPLE), (0, length - 1, 1, ROW_SAMPLE)]
    tokens = [send(record)]
    for step in range(7):
        rows = [(slot, len(texts[slot]) + step, 1, ROW_SAMPLE) for slot in (1, 2, 0)]
        tokens.append(send(StepRecord(rows=rows)))
    for column, slot in enumerate((1, 2, 0)):
        assert [row[column] for row in tokens] == generate(texts[slot], 8)


def test_a_seeded_text_is_the_same_in_any_batch(tiny: ModelFolders, open_model: Open) -> None:
    handler = open_model(tiny("llama"), num_slots=6, max_context=96)
    texts = prompts(6, longest=20, seed=7)
    params = [
        {"temperature": 1.0, "seed": 1},
        {"temperature": 0.8, "seed": 2, "top_k": 20},
        {"temperature": 1.2, "seed": 3, "top_p": 0.9},
        {},
        {"temperature": 1.0, "seed": 1, "repetition_penalty": 1.3},
        {"temperature": 1.0, "seed": 9, "presence_penalty": 0.7, "min_p": 0.05},
    ]
    together = [Request(text, 20, param, joins_at=i) for i, (text, param) in enumerate(zip(texts, params, strict=True))]
    Driver(handler, 6).run(together)
    for request, text, param in zip(together, texts, params, strict=True):
        alone = Request(text, 20, param)
        Driver(handler, 6, chunk=5).run([alone])
        assert alone.tokens == request.tokens
    replayed = Request(texts[0], 20, params[0])
    other_seed = Request(texts[0], 20, params[0] | {"seed": 5})
    Driver(handler, 6).run([replayed, other_seed])
    assert replayed.tokens == together[0].tokens != other_seed.tokens


def test_the_number_that_draws_is_that_of_the_position(tiny: ModelFolders, open_model: Open) -> None:
    """Each token is where the seed's number for its position falls in the model's own distribution."""
    path = tiny("llama")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    prompt = [5, 6, 7, 8]
    request = Request(prompt, 15, {"temperature": 0.9, "seed": 77})
    Driver(open_model(path, num_slots=2, max_context=64), 2).run([request])
    with torch.no_grad():
        logits = model(torch.tensor([prompt + request.tokens])).logits[0, len(prompt) - 1 : -1].double()
    cumulative = torch.softmax(logits / 0.9, dim=-1).cumsum(dim=-1)
    positions = np.arange(len(prompt), len(prompt) + 15)
    numbers = torch.from_numpy(uniforms(np.full(15, 77, dtype=np.uint64), positions)).double()
    expected = torch.searchsorted(cumulative, numbers[:, None], right=True)[:, 0].tolist()
    assert request.tokens == expected and len(set(expected)) > 5


def test_logprobs_are_told_for_rows_that_ask(tiny: ModelFolders, open_model: Open) -> None:
    path = tiny("llama")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    handler = open_model(path, num_slots=4, max_context=64)
    texts = prompts(3, longest=10, seed=8)
    requests = [Request(texts[0], 5, logprobs=3), Request(texts[1], 5), Request(texts[2], 5, logprobs=0)]
    Driver(handler, 4).run(requests)
    for request in (requests[0], requests[2]):
        with torch.no_grad():
            ids = torch.tensor([request.prompt + request.tokens])
            expected = torch.log_softmax(model(ids).logits[0], -1)[len(request.prompt) - 1 : -1]
        for place, token in enumerate(request.tokens):
            assert request.token_logprobs[place] == pytest.approx(float(expected[place, token]), abs=1e-3)
            best = torch.topk(expected[place], request.logprobs or 0)
            assert [id for id, _ in request.top[place]] == best.indices.tolist()
            assert [value for _, value in request.top[place]] == pytest.approx(best.values.tolist(), abs=1e-3)


def test_a_grammar_mask_reaches_its_row(tiny: ModelFolders, open_model: Open) -> None:
    generate = plain(tiny("llama"))
    handler = open_model(tiny("llama"), num_slots=4, max_context=64)
    texts = prompts(3, longest=10, seed=9)
    only = [0] * 16
    only[300 // 32] |= 1 << (300 % 32)
    requests = [Request(texts[0], 6), Request(texts[1], 6, bitmask=only), Request(texts[2], 6)]
    Driver(handler, 4).run(requests)
    assert requests[1].tokens == [300] * 6
    assert requests[0].tokens == generate(texts[0], 6) and requests[2].tokens == generate(texts[2], 6)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (StepRecord(new=[sequence(4, 0, 1)], prompts=[3]), "enters slot 4, there are 4"),
        (StepRecord(new=[sequence(1, 0, 1), sequence(1, 0, 1)], prompts=[3]), "slot 1, which is taken"),
        (StepRecord(new=[sequence(1, 0, 0)]), "a prompt of 0 tokens"),
        (StepRecord(new=[sequence(1, 0, 1, max_len=65)], prompts=[3]), "in a context of 64"),
        (StepRecord(new=[sequence(1, 0, 1)], prompts=[512]), "token id 512, the model knows 512"),
        (StepRecord(freed=[9]), "slot 9 is freed"),
        (StepRecord(rows=[(2, 0, 1, 1)]), "a row of a slot that is empty"),
        (StepRecord(rows=[(0, 0, 1, 1), (0, 1, 1, 1)]), "two rows of one slot"),
        (StepRecord(rows=[(0, 0, 0, 1)]), "asks for 0 positions"),
        (StepRecord(rows=[(0, 2, 1, 1)]), "where 0 are computed"),
        (StepRecord(rows=[(0, 0, 4, 1)]), "3 tokens are known"),
        (StepRecord(rows=[(0, 0, 3, 3)]), "0 words of bitmask for 1 rows of 16 words"),
        (StepRecord(copies=[(0, 1)]), "of which one is empty"),
    ],
)
def test_a_step_that_cannot_be_is_refused_and_harms_nothing(
    tiny: ModelFolders, open_model: Open, record: StepRecord, said: str
) -> None:
    handler = open_model(tiny("llama"), num_slots=4, max_context=64)
    driver = Driver(handler, 4)
    request = Request([5, 6, 7], 4)
    enter = StepRecord()
    driver._enter(enter, request)
    assert decode_output(handler.step(enter.encode())).error is None
    output = decode_output(handler.step(record.encode()))
    assert output.error is not None and output.error["code"] == "internal"
    assert said in output.error["message"]
    while len(request.tokens) < 4:
        driver._update(driver.send(StepRecord(), [request]), [request])
    assert request.tokens == plain(tiny("llama"))([5, 6, 7], 4)


def test_closing_frees_the_model(tiny: ModelFolders, open_model: Open) -> None:
    handler = open_model(tiny("llama"), num_slots=2)
    model = weakref.ref(model_of(handler))
    tier = weakref.ref(handler._runner._tier)  # type: ignore[union-attr]
    gc.disable()
    try:
        handler.close()
    finally:
        gc.enable()
    assert model() is None and tier() is None
    handler.close()
    error = decode_output(handler.step(StepRecord(step_id=3).encode())).error
    assert error is not None and error["code"] == "closed"


def test_bfloat16_runs_batched(tiny: ModelFolders, open_model: Open) -> None:
    handler = open_model(tiny("llama"), num_slots=4, dtype="bfloat16", max_context=64)
    info = handler.info()["model"]
    assert (info["dtype"], info["tier"]) == ("bfloat16", "slots")
    texts = prompts(6, longest=20, seed=10)
    tokens = run(handler, texts, [8] * 6)
    assert all(len(text) == 8 and NO_TOKEN not in text for text in tokens)


def test_a_real_model_says_what_it_says_alone(real_model: Path, open_model: Open) -> None:
    generate = plain(real_model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(real_model)
    questions = [
        "What is the capital of France?",
        "Write one sentence about the sea.",
        "List three fruits.",
        "Why is the sky blue?",
    ]
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True)["input_ids"]
        for q in questions
    ]
    expected = [generate(text, 12) for text in texts]
    handler = open_model(real_model, num_slots=3, max_context=512)
    info = handler.info()["model"]
    assert (info["tier"], info["vocabSize"], info["eosTokenIds"]) == ("slots", 49_152, [2])
    assert run(handler, texts, [12] * 4, chunk=24) == expected
    assert tokenizer.decode(expected[0]).startswith("The capital of France is Paris")
