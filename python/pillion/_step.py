"""The step record, version 1: one message each way per iteration, the same bytes in every bridge.

The layout is drawn in `crates/pillion-core/src/step.rs`. Reading makes no object per row: the sections stay views
of the record's bytes, and only sequences that enter, which are rare, become objects. Knows neither torch nor numpy.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import Final, NamedTuple

from pillion._native import native
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
    "python_decode_step",
    "python_encode_output",
    "read_request_ids",
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

_NUM_SECTIONS: Final = 6
_IS_LITTLE_ENDIAN: Final = sys.byteorder == "little"
# The header and the table of the sections that are known.
_STEP_HEADER: Final = struct.Struct("<IHHIIQQ12I")
_OUTPUT_HEADER: Final = struct.Struct("<IHHIIQQ8I")
_STEP_HEADER_SIZE: Final = _STEP_HEADER.size
_HEADER_SIZE: Final = HEADER.size
# The same as `_STEP_HEADER`, for one comparison in place of three.
_unpack_step_header: Final = struct.Struct("<8sIIQ8x12I").unpack_from
_STEP_BEGIN: Final = struct.pack("<IHH", MAGIC, VERSION, KIND_STEP)
_pack_output_header: Final = _OUTPUT_HEADER.pack
_AT_TOKENS: Final = _OUTPUT_HEADER.size
_ENTRY: Final = struct.Struct("<II")
_LENGTH: Final = struct.Struct("<I")
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
    request_ids: tuple[str, ...] = ()
    """The callers' names for the sequences that enter: none at all, or one for each."""

    @property
    def num_rows(self) -> int:
        """How many rows there are to compute."""
        return len(self.rows) // 4


# Without the function of Python's own that a call of the class would go through.
_new_step: Final = tuple.__new__


def python_decode_step(record: bytes | bytearray | memoryview) -> Step:
    """Reads a step, checking every size."""
    # In the way of every step: what is not there costs nothing, and what is wrong is looked for only once it is.
    data = memoryview(record)
    size = data.nbytes
    if size < _STEP_HEADER_SIZE:
        raise _damage(data.cast("B"))
    (begin, length, sections, step_id, o0, n0, o1, n1, o2, n2, o3, n3, o4, n4, o5, n5) = _unpack_step_header(data)
    if (
        begin != _STEP_BEGIN
        or length != size
        or size & 3
        or not _NUM_SECTIONS <= sections <= (size - _HEADER_SIZE) >> 3
        or not _IS_LITTLE_ENDIAN
    ):
        raise _damage(data.cast("B"))
    if data.format != "B":
        data = data.cast("B")
    words = data.cast("I")
    body = _HEADER_SIZE + 8 * sections
    freed = _section(words, body, 0, o0, n0, 4) if n0 else _EMPTY
    new = _section(words, body, 1, o1, n1, 64) if n1 else _EMPTY
    prompts = _section(words, body, 2, o2, n2, 4) if n2 else _EMPTY
    copies = _section(words, body, 3, o3, n3, 8) if n3 else _EMPTY
    bitmask = _section(words, body, 4, o4, n4, 4) if n4 else _EMPTY
    rows_end = o5 + 16 * n5
    # As `_section`, but here every step comes by.
    if n5 and (o5 < body or o5 & 3 or rows_end > size):
        raise _outside(5, n5, o5)
    rows = words[o5 >> 2 : rows_end >> 2] if n5 else _EMPTY
    if not n1:
        return _new_step(Step, (step_id, freed, (), prompts, copies, bitmask, rows, ()))
    ids = read_request_ids(data, body, _NUM_SECTIONS, n1) if sections > _NUM_SECTIONS else ()
    return Step(step_id, freed, _sequences(new, len(prompts)), prompts, copies, bitmask, rows, ids)


def _section(words: memoryview, body: int, index: int, offset: int, count: int, width: int) -> memoryview:
    """The elements of a section that is not empty. `body` is where the sections begin."""
    end = offset + width * count
    if offset < body or offset & 3 or end > len(words) * 4:
        raise _outside(index, count, offset)
    return words[offset >> 2 : end >> 2]


def _outside(index: int, count: int, offset: int) -> StepRecordError:
    return _bad(f"section {index} ({count} elements at byte {offset}) lies outside")


def _damage(data: memoryview) -> StepRecordError:
    """What is wrong with a step that cannot be read."""
    if not _IS_LITTLE_ENDIAN:
        return StepRecordError("this machine is not little-endian", code="unsupported")
    size = len(data)
    if size < HEADER.size:
        return _bad(f"{size} bytes, shorter than a header")
    magic, version, kind, length, sections, _, _ = HEADER.unpack_from(data)
    if magic != MAGIC:
        return _bad(f"no step record (magic {magic:#x})")
    if version != VERSION:
        return StepRecordError(
            f"a step record of version {version}, this side speaks {VERSION}", code="version_mismatch"
        )
    if kind != KIND_STEP:
        return _bad(f"kind {kind} where {KIND_STEP} was expected")
    if length != size:
        return _bad(f"{size} bytes, its header says {length}")
    if size % 4:
        return _bad(f"{size} bytes, no multiple of 4")
    return _bad(f"{sections} sections")


def python_encode_output(
    step_id: int, forward_ns: int, tokens: bytes = b"", logprobs: bytes = b"", top: bytes = b"", error: str = ""
) -> bytes:
    """Writes an output. `tokens` are u32, `logprobs` f32, `top` entries of (index u32, id u32, logprob f32), all as
    little-endian bytes; `error` is JSON or empty."""
    if not (logprobs or top or error):
        # Greedy steps, which are the most: one piece behind the header.
        end = _AT_TOKENS + len(tokens)
        return (
            _pack_output_header(
                MAGIC,
                VERSION,
                KIND_STEP_OUTPUT,
                end,
                4,
                step_id,
                forward_ns,
                _AT_TOKENS,
                len(tokens) >> 2,
                end,
                0,
                end,
                0,
                end,
                0,
            )
            + tokens
        )
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


def read_request_ids(data: memoryview, body: int, section: int, wanted: int) -> tuple[str, ...]:
    """The section with the callers' names: none at all, or as many as are wanted."""
    offset, count = _ENTRY.unpack_from(data, HEADER.size + 8 * section)
    end = offset + count
    if offset < body or end > len(data):
        raise _outside(section, count, offset)
    ids = []
    while offset < end:
        at = offset + _LENGTH.size
        offset = at + (_LENGTH.unpack_from(data, offset)[0] if at <= end else end)
        if offset > end:
            raise _bad("a request id lies outside its section")
        ids.append(str(data[at:offset], "utf-8", "replace"))
    if ids and len(ids) != wanted:
        raise _bad(f"{len(ids)} request ids where {wanted} were expected")
    return tuple(ids)


def _bad(what: str) -> StepRecordError:
    return StepRecordError(f"a step record cannot be read: {what}")


# In native code, where there is some, the usual record takes half the time. The unusual one comes back to the function
# above.
decode_step: Final[Callable[[bytes | bytearray | memoryview], Step]] = (
    python_decode_step if native is None else native.StepReader(Step, _EMPTY, python_decode_step).decode
)
"""Reads a step, checking every size."""
encode_output: Final[Callable[..., bytes]] = python_encode_output if native is None else native.encode_output
"""As `python_encode_output`."""
