"""The step record, version 1: one message each way per iteration, the same bytes in every bridge.

The layout is drawn in `crates/pillion-core/src/step.rs`. Reading makes no object per row: the sections stay views
of the record's bytes, and only sequences that enter, which are rare, become objects. Knows neither torch nor numpy.
"""

from __future__ import annotations

import struct
import sys
from typing import Final, NamedTuple

from pillion.errors import StepRecordError

__all__ = [
    "NEW_SEQUENCE",
    "NO_TOKEN",
    "ROW_MASKED",
    "ROW_SAMPLE",
    "SEQUENCE_LOGPROBS",
    "VERSION",
    "NewSequence",
    "Step",
    "decode_step",
    "encode_output",
]

MAGIC: Final = int.from_bytes(b"PLLN", "little")
VERSION: Final = 1
KIND_STEP: Final = 1
KIND_STEP_OUTPUT: Final = 3
HEADER: Final = struct.Struct("<IHHIIQQ")
ROW_SAMPLE: Final = 1
ROW_MASKED: Final = 2
SEQUENCE_LOGPROBS: Final = 1
NO_TOKEN: Final = 0xFFFF_FFFF
NEW_SEQUENCE: Final = struct.Struct("<4IffIfQIIff8x")
"""The 64 bytes of a sequence that enters, in the order of the fields of `NewSequence`."""

# Bytes per element of each section of a step.
_STEP_SECTIONS: Final = (4, 64, 4, 8, 4, 16)
_STEP_TABLE: Final = struct.Struct("<12I")
_OUTPUT_HEADER: Final = struct.Struct("<IHHIIQQ8I")
_EMPTY: Final = memoryview(b"").cast("I")


class NewSequence(NamedTuple):
    """A sequence that enters a slot."""

    slot: int
    prompt_offset: int
    prompt_len: int
    flags: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    logprobs: int
    max_len: int
    repetition_penalty: float
    presence_penalty: float


class Step(NamedTuple):
    """One iteration's work. All views are of 32-bit words and live as long as the record's bytes."""

    step_id: int
    freed: memoryview
    """Slots whose sequences are gone."""
    new: tuple[NewSequence, ...]
    """Sequences that enter."""
    prompts: memoryview
    """Their prompts, one after the other."""
    copies: memoryview
    """Cache copies: two words each, from and to."""
    bitmask: memoryview
    """`ceil(vocabulary / 32)` words for each row with ROW_MASKED, in the order of the rows."""
    rows: memoryview
    """Four words each: slot, start, count, flags."""

    @property
    def num_rows(self) -> int:
        """How many rows there are to compute."""
        return len(self.rows) // 4


def decode_step(record: bytes | bytearray | memoryview) -> Step:
    """Reads a step, checking every size."""
    if sys.byteorder != "little":
        raise StepRecordError("this machine is not little-endian", code="unsupported")
    data = memoryview(record).cast("B")
    size = len(data)
    if size < HEADER.size:
        raise _bad(f"{size} bytes, shorter than a header")
    magic, version, kind, length, sections, step_id, _ = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _bad(f"no step record (magic {magic:#x})")
    if version != VERSION:
        raise StepRecordError(
            f"a step record of version {version}, this side speaks {VERSION}", code="version_mismatch"
        )
    if kind != KIND_STEP:
        raise _bad(f"kind {kind} where {KIND_STEP} was expected")
    if length != size:
        raise _bad(f"{size} bytes, its header says {length}")
    if size % 4:
        raise _bad(f"{size} bytes, no multiple of 4")
    if not len(_STEP_SECTIONS) <= sections <= (size - HEADER.size) // 8:
        raise _bad(f"{sections} sections")
    words = data.cast("I")
    body = HEADER.size + 8 * sections
    table = _STEP_TABLE.unpack_from(data, HEADER.size)
    views = []
    for index, width in enumerate(_STEP_SECTIONS):
        offset, count = table[2 * index], table[2 * index + 1]
        end = offset + width * count
        if offset < body or offset & 3 or end > size:
            raise _bad(f"section {index} ({count} elements at byte {offset}) lies outside")
        views.append(words[offset >> 2 : end >> 2] if count else _EMPTY)
    freed, new, prompts, copies, bitmask, rows = views
    return Step(step_id, freed, _sequences(new, len(prompts)) if new else (), prompts, copies, bitmask, rows)


def encode_output(
    step_id: int, forward_ns: int, tokens: bytes = b"", logprobs: bytes = b"", top: bytes = b"", error: str = ""
) -> bytes:
    """Writes an output. `tokens` are u32, `logprobs` f32, `top` entries of (index u32, id u32, logprob f32), all as
    little-endian bytes; `error` is JSON or empty."""
    text = error.encode("utf-8")
    padding = -len(text) % 4
    at_tokens = _OUTPUT_HEADER.size
    at_logprobs = at_tokens + len(tokens)
    at_top = at_logprobs + len(logprobs)
    at_error = at_top + len(top)
    length = at_error + len(text) + padding
    header = _OUTPUT_HEADER.pack(
        MAGIC,
        VERSION,
        KIND_STEP_OUTPUT,
        length,
        4,
        step_id,
        forward_ns,
        at_tokens,
        len(tokens) // 4,
        at_logprobs,
        len(logprobs) // 4,
        at_top,
        len(top) // 12,
        at_error,
        len(text),
    )
    return b"".join((header, tokens, logprobs, top, text, bytes(padding)))


def _sequences(section: memoryview, num_prompt_tokens: int) -> tuple[NewSequence, ...]:
    sequences = tuple(NewSequence(*fields) for fields in NEW_SEQUENCE.iter_unpack(section.cast("B")))
    for sequence in sequences:
        if sequence.prompt_offset + sequence.prompt_len > num_prompt_tokens:
            raise _bad(f"the prompt of slot {sequence.slot} lies outside its section")
    return sequences


def _bad(what: str) -> StepRecordError:
    return StepRecordError(f"a step record cannot be read: {what}")
