"""Runs any decoder of transformers (`AutoModelForCausalLM`) over step records.

Keeps the token pool: prompts are written when a sequence enters, sampled ids where they belong, so that a decode
row needs no token from outside and a step may come before the last one's output was read. Which rows there are is
Rust's business; how the model's cache is kept is the tier's.
"""

from __future__ import annotations

import logging
import time
from array import array
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pillion._arena import Arena
from pillion._config import LoadConfig, PretrainedModel, Progress
from pillion._memory import free_host_bytes, trim_heap
from pillion._requests import RequestNames
from pillion._sampling import Penalties, Sampled, SamplingRows, sample
from pillion._step import NO_TOKEN, ROW_MASKED, ROW_SAMPLE, NewSequence, Step, decode_step, encode_output
from pillion.errors import PillionError, is_out_of_memory
from pillion.runners._folder import ModelFolder
from pillion.runners._load import LoadedModel, load_model
from pillion.runners._probe import Reference, difference, observe
from pillion.runners._single import SingleTier
from pillion.runners._slot_table import SlotTable
from pillion.runners._slots import SlotTier
from pillion.runners._tier import Batch, Tier

__all__ = ["CausalRunner"]

log = logging.getLogger("pillion")

# What a model without any length of its own gets.
_CONTEXT_WITHOUT_BOUND = 32_768
_TOP = np.dtype([("index", "<u4"), ("id", "<u4"), ("logprob", "<f4")])


class CausalRunner:
    """One loaded model, its slots and its token pool."""

    tasks = ("generate",)

    def __init__(self, config: LoadConfig, source: PretrainedModel, folder: ModelFolder, progress: Progress) -> None:
        self._folder = folder
        with torch.inference_mode():
            self._loaded: LoadedModel | None = load_model(config, source, folder, progress)
            self._device = self._loaded.device
            self._open(config, self._loaded, progress)

    def _open(self, config: LoadConfig, loaded: LoadedModel, progress: Progress) -> None:
        progress("check", 0, None)
        limits = config.limits
        own_context = _own_context(loaded.model)
        context = min(limits.max_context or own_context or _CONTEXT_WITHOUT_BOUND, own_context or 1 << 31)
        reference = observe(loaded.model, loaded.device, context)
        self._num_slots = limits.max_running
        self._kv_tokens = _kv_tokens(limits.kv_cache_bytes, reference, loaded.device, self._num_slots * context)
        self._max_context = min(context, self._kv_tokens)
        if self._max_context < context:
            log.warning(
                "the KV cache holds %d tokens, so the context is %d instead of %d; raise limits.kvCacheBytes for more",
                self._kv_tokens,
                self._max_context,
                context,
            )
        self._vocab_size = reference.vocab_size
        self._tier, self._tier_reason = self._choose_tier(loaded, reference)
        progress("check", 1, 1)
        self._requests = RequestNames()
        self._table = SlotTable(self._num_slots, self._vocab_size, self._max_context)
        self._pool = torch.zeros((self._num_slots, 256), dtype=torch.int32, device=loaded.device)
        progress("warmup", 0, None)
        self._warm_up()
        progress("warmup", 1, 1)

    def _choose_tier(self, loaded: LoadedModel, reference: Reference) -> tuple[Tier, str | None]:
        """The best tier whose logits are the model's own, and why no better one was taken."""
        reason = reference.irregular
        if reference.geometry is not None:
            model = loaded.model
            attention = model.config._attn_implementation
            stride = max(1, min(self._max_context, self._kv_tokens // self._num_slots))
            try:
                arena = Arena(self._kv_tokens, stride)
                tier = SlotTier(model, reference.geometry, arena, loaded.device)
                reason = difference(tier, reference, self._num_slots, self._kv_tokens)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                reason = f"{type(error).__name__}: {error}"
            if not reason:
                return tier, None
            model.set_attn_implementation(attention)
        log.info("batched decoding is off for %s: %s", self._folder.name, reason)
        return SingleTier(loaded.model, self._vocab_size), reason

    def info(self) -> dict[str, Any]:
        """The fields of `pillion_core::ModelInfo`."""
        assert self._loaded is not None
        defaults = self._folder.defaults()
        return {
            "name": self._folder.name,
            "tasks": list(self.tasks),
            "tier": self._tier.name,
            "tierReason": self._tier_reason,
            "dtype": str(self._loaded.dtype).removeprefix("torch."),
            "device": str(self._device),
            "maxContext": self._max_context,
            "vocabSize": self._vocab_size,
            "numSlots": self._num_slots,
            "kvTokens": self._kv_tokens,
            "eosTokenIds": self._folder.eos_token_ids(),
            "defaults": {
                "temperature": defaults.temperature,
                "topP": defaults.top_p,
                "topK": defaults.top_k,
                "minP": defaults.min_p,
            },
        }

    def run(self, record: bytes | bytearray | memoryview) -> bytes:
        """Runs one step record."""
        step = decode_step(record)
        if step.new or step.freed:
            self._requests.follow(step)
        try:
            return self.step(step)
        except PillionError:
            raise
        except BaseException as error:
            self._requests.log_failure(step, error)
            raise

    def step(self, step: Step) -> bytes:
        """Runs one step; gives its output record. What raises leaves every other slot as it was."""
        begin = time.perf_counter_ns()
        with torch.inference_mode():
            self._update_slots(step)
            rows = self._table.check_rows(step)
            if not len(rows):
                return encode_output(step.step_id, time.perf_counter_ns() - begin)
            sampled = self._forward(step, rows)
            tokens, logprobs, top = self._read_back(rows, sampled) if sampled is not None else (b"", b"", b"")
        return encode_output(step.step_id, time.perf_counter_ns() - begin, tokens, logprobs, top)

    def close(self) -> None:
        """Drops the model and everything on its device. Closing twice is fine."""
        if self._loaded is None:
            return
        self._tier.close()
        self._loaded = None
        self._pool = torch.empty(0)

    def trim(self) -> None:
        """Gives the memory back to the system, once nothing refers to it any more."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        trim_heap()

    def _update_slots(self, step: Step) -> None:
        table = self._table
        if step.freed or step.new:
            table.check_entering(step)
            for slot in step.freed:
                self._tier.leave(slot, table.leave(slot))
            self._enter(step)
        for source, target, length in table.check_copies(step):
            self._tier.copy(source, target, length)
            table.computed[target] = length

    def _enter(self, step: Step) -> None:
        prompts = np.frombuffer(step.prompts, dtype=np.int32)
        for new in step.new:
            self._widen_pool(new.max_len + 1)
            self._tier.enter(new.slot, new.max_len)
            self._table.enter(new)
            prompt = prompts[new.prompt_offset : new.prompt_offset + new.prompt_len].copy()
            self._pool[new.slot, : new.prompt_len] = torch.from_numpy(prompt).to(self._device)

    def _widen_pool(self, wanted: int) -> None:
        width = self._pool.shape[1]
        if wanted > width:
            pool = torch.zeros((self._num_slots, max(2 * width, wanted)), dtype=torch.int32, device=self._device)
            pool[:, :width] = self._pool
            self._pool = pool

    def _forward(self, step: Step, rows: NDArray[np.int64]) -> Sampled | None:
        slots, starts, counts, flags = rows.T
        wanted = (flags & ROW_SAMPLE) != 0
        bitmask = self._table.check_bitmask(step, flags)
        batch = Batch(slots, starts, counts, wanted, self._pool)
        # Counted before the model runs: what a failing pass leaves behind is in doubt.
        self._table.computed[slots] = np.maximum(self._table.computed[slots], batch.ends)
        logits = self._tier.forward(batch)
        if not wanted.any():
            return None
        asking = slots[wanted]
        ends = batch.ends[wanted]
        masked = np.flatnonzero(flags[wanted] & ROW_MASKED) if bitmask is not None else None
        result = sample(logits.float(), self._sampling_rows(asking, ends, masked, bitmask))
        places = torch.from_numpy(asking * self._pool.shape[1] + ends).to(self._device)
        self._pool.view(-1).index_copy_(0, places, result.tokens.int())
        self._table.known[asking] = np.maximum(
            self._table.known[asking], np.minimum(ends + 1, self._table.max_len[asking])
        )
        return result

    def _sampling_rows(
        self,
        slots: NDArray[np.int64],
        ends: NDArray[np.int64],
        masked: NDArray[np.int64] | None,
        bitmask: NDArray[np.int32] | None,
    ) -> SamplingRows:
        table = self._table
        penalized = np.flatnonzero(table.penalized[slots])
        penalties = None
        if penalized.size:
            length = int(ends[penalized].max())
            index = torch.from_numpy(slots[penalized]).to(self._device)
            history = self._pool[:, :length].index_select(0, index)
            penalties = Penalties(penalized, history, table.prompt_len[slots[penalized]], ends[penalized])
        return SamplingRows(
            temperature=table.temperature[slots],
            top_k=table.top_k[slots],
            top_p=table.top_p[slots],
            min_p=table.min_p[slots],
            repetition_penalty=table.repetition_penalty[slots],
            presence_penalty=table.presence_penalty[slots],
            seed=table.seed[slots],
            position=ends,
            logprobs=table.logprobs[slots],
            penalties=penalties,
            masked=masked,
            bitmask=bitmask,
        )

    def _read_back(self, rows: NDArray[np.int64], sampled: Sampled) -> tuple[bytes, bytes, bytes]:
        """Waits for the device, and gives the three sections of the output."""
        tokens = torch.where(sampled.ok, sampled.tokens, NO_TOKEN).cpu().numpy()
        finite = tokens != NO_TOKEN
        wanted = rows[(rows[:, 3] & ROW_SAMPLE) != 0]
        good = wanted[finite]
        self._table.verified[good[:, 0]] = good[:, 1] + good[:, 2]
        logprobs = b"" if sampled.logprobs is None else sampled.logprobs.cpu().numpy().astype("<f4").tobytes()
        top = b""
        if sampled.top_ids is not None and sampled.top_logprobs is not None:
            counts = np.where(finite, np.maximum(self._table.logprobs[wanted[:, 0]], 0), 0)
            keep = np.arange(sampled.top_ids.shape[1])[None, :] < counts[:, None]
            entries = np.empty(int(keep.sum()), dtype=_TOP)
            entries["index"] = np.nonzero(keep)[0]
            entries["id"] = sampled.top_ids.cpu().numpy()[keep]
            entries["logprob"] = sampled.top_logprobs.cpu().numpy()[keep]
            top = entries.tobytes()
        return tokens.astype("<u4").tobytes(), logprobs, top

    def _warm_up(self) -> None:
        """One prefill and one decode step, so that the first request does not pay for what is made on first use."""
        length = min(8, self._max_context)
        prompt = [min(3, self._vocab_size - 1)] * (length - 1)
        new = NewSequence(0, 0, len(prompt), 0, 0.0, 1.0, 0, 0.0, 0, 0, length, 1.0, 0.0)
        nothing = memoryview(b"").cast("I")
        enter = Step(0, nothing, (new,), _words(*prompt), nothing, nothing, _words(0, 0, len(prompt), ROW_SAMPLE))
        decode = Step(0, nothing, (), nothing, nothing, nothing, _words(0, len(prompt), 1, ROW_SAMPLE))
        leave = Step(0, _words(0), (), nothing, nothing, nothing, nothing)
        for step in (enter, decode, leave):
            self.step(step)


def _words(*values: int) -> memoryview:
    return memoryview(array("I", values))


def _own_context(model: Any) -> int | None:
    """The longest text that the model was made for, if its configuration says."""
    config = model.config.get_text_config(decoder=True)
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 1:
            return value
    return None


def _kv_tokens(asked: int | None, reference: Reference, device: torch.device, needed: int) -> int:
    """How many tokens the cache shall hold: what was asked for, else a quarter of the free memory; never more than
    needed."""
    if not reference.bytes_per_token:
        return needed
    if asked is not None:
        size = asked
    elif device.type == "cuda":
        size = torch.cuda.mem_get_info(device)[0] // 4
    else:
        size = free_host_bytes() // 4
    tokens = min(needed, size // reference.bytes_per_token)
    if tokens < 2:
        raise PillionError(
            "out_of_memory",
            f"{size} bytes of KV cache hold {tokens} tokens of {reference.bytes_per_token} bytes each",
            remedy="raise limits.kvCacheBytes or free memory",
            param="limits.kvCacheBytes",
        )
    return tokens
