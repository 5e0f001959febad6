"""Step records as messages of `proto/worker.proto`, and back.

What is a repeated `fixed32` in the file is read and written as bytes here: packed, its bytes on the wire are the
section of the step record, and to make a Python object of each number would cost more than the rest of the step. The
classes are made in a pool of their own, so that no other package's messages can be in the way.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pillion import _step
from pillion.errors import StepRecordError
from pillion.transports._worker_proto import DESCRIPTOR

__all__ = ["MESSAGES", "frame", "framed_record", "record_of_step", "step_output_of_record"]

_STEP_HEADER: Final = struct.Struct("<IHHIIQQ12I")
_NAMED_STEP_HEADER: Final = struct.Struct("<IHHIIQQ14I")
_OUTPUT_HEADER: Final = struct.Struct("<IHHIIQQ8I")
_TOP: Final = struct.Struct("<IIf")
_LENGTH: Final = struct.Struct("<I")
# Field 2 of a message of the stream, the same in both directions: a record.
_RECORD_FIELD: Final = b"\x12"


def _packed_as_bytes(file: descriptor_pb2.FileDescriptorProto) -> None:
    field_type = descriptor_pb2.FieldDescriptorProto
    for message in file.message_type:
        for field in message.field:
            if field.label == field_type.LABEL_REPEATED and field.type in (
                field_type.TYPE_FIXED32,
                field_type.TYPE_FLOAT,
            ):
                field.label, field.type = field_type.LABEL_OPTIONAL, field_type.TYPE_BYTES


def _load() -> dict[str, Any]:
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTOR)
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        _packed_as_bytes(file)
        pool.AddSerializedFile(file.SerializeToString())
    names = [f"{file.package}.{message.name}" for file in files.file for message in file.message_type]
    return {
        name.rpartition(".")[2]: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names
    }


MESSAGES: Final = _load()
"""Every message's class, by its name."""

_StepOutput: Final = MESSAGES["StepOutput"]
_TopLogprob: Final = MESSAGES["TopLogprob"]


def framed_record(message: bytes) -> bytes | None:
    """The record in a message of the stream that has nothing else; `None` if it is another one."""
    if message[:1] != _RECORD_FIELD:
        return None
    at, length, shift = 1, 0, 0
    for byte in message[1:6]:
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return message[at:] if length and at + length == len(message) else None
        shift += 7
    return None


def frame(length: int) -> bytes:
    """What stands before a record of so many bytes in a message of the stream."""
    frame = bytearray(_RECORD_FIELD)
    while length > 0x7F:
        frame.append(length & 0x7F | 0x80)
        length >>= 7
    frame.append(length)
    return bytes(frame)


def record_of_step(step: Any) -> bytes:
    """The record that says what the message says."""
    freed, prompts, copies, bitmask, rows = step.freed, step.prompts, step.copies, step.bitmask, step.rows
    new = _new_sequences(step) if step.new else b""
    ids = _request_ids(step) if step.request_ids else b""
    header = _STEP_HEADER if not ids else _NAMED_STEP_HEADER
    at_freed = header.size
    at_new = at_freed + len(freed)
    at_prompts = at_new + len(new)
    at_copies = at_prompts + len(prompts)
    at_bitmask = at_copies + len(copies)
    at_rows = at_bitmask + len(bitmask)
    at_ids = at_rows + len(rows)
    padding = -len(ids) % 4
    fields = (
        _step.MAGIC,
        _step.VERSION,
        _step.KIND_STEP,
        at_ids + len(ids) + padding,
        7 if ids else 6,
        step.step_id,
        0,
        at_freed,
        len(freed) // 4,
        at_new,
        len(new) // 64,
        at_prompts,
        len(prompts) // 4,
        at_copies,
        len(copies) // 8,
        at_bitmask,
        len(bitmask) // 4,
        at_rows,
        len(rows) // 16,
    )
    head = header.pack(*fields) if not ids else header.pack(*fields, at_ids, len(ids))
    return b"".join((head, freed, new, prompts, copies, bitmask, rows, ids, bytes(padding)))


def _new_sequences(step: Any) -> bytes:
    return b"".join(
        _step.NEW_SEQUENCE.pack(
            n.slot,
            n.prompt_offset,
            n.prompt_len,
            n.flags,
            n.temperature,
            n.top_p,
            n.top_k,
            n.min_p,
            n.seed,
            n.logprobs,
            n.max_len,
            n.repetition_penalty,
            n.presence_penalty,
        )
        for n in step.new
    )


def _request_ids(step: Any) -> bytes:
    texts = [text.encode("utf-8") for text in step.request_ids]
    return b"".join(_LENGTH.pack(len(text)) + text for text in texts)


def step_output_of_record(record: bytes) -> Any:
    """The message that says what the record says."""
    if len(record) < _OUTPUT_HEADER.size:
        raise _bad(f"{len(record)} bytes, shorter than an output's header")
    (magic, version, kind, length, sections, step_id, forward_ns, o0, n0, o1, n1, o2, n2, o3, n3) = (
        _OUTPUT_HEADER.unpack_from(record)
    )
    if magic != _step.MAGIC or version != _step.VERSION or kind != _step.KIND_STEP_OUTPUT or length != len(record):
        raise _bad(f"no step output (magic {magic:#x}, version {version}, kind {kind}, {length} bytes)")
    if sections < 4 or max(o0 + 4 * n0, o1 + 4 * n1, o2 + 12 * n2, o3 + n3) > length:
        raise _bad("a section of an output lies outside")
    output = _StepOutput(step_id=step_id, forward_ns=forward_ns, tokens=record[o0 : o0 + 4 * n0])
    if n1:
        output.logprobs = record[o1 : o1 + 4 * n1]
    if n2:
        entries = _TOP.iter_unpack(record[o2 : o2 + 12 * n2])
        output.top.extend(_TopLogprob(index=index, id=token, logprob=logprob) for index, token, logprob in entries)
    if n3:
        output.error = record[o3 : o3 + n3].decode("utf-8")
    return output


def _bad(what: str) -> StepRecordError:
    return StepRecordError(f"a step record cannot be read: {what}")
