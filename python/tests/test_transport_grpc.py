"""The service of `proto/worker.proto`, with its engine in a thread of the same process."""

from __future__ import annotations

import importlib
import json
import os
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import pillion
from pillion import _step
from pillion._listen import socket_path
from pillion.errors import PackageMissingError, PillionError, StepRecordError
from pillion.transports import _messages
from pillion.transports._grpc import ERROR_KEY, GrpcServer
from pillion.transports._grpc_stream import OwnStream
from records import StepRecord, decode_output, sequence

MESSAGES = _messages.MESSAGES
METHOD = "/pillion.worker.v1.Worker/"


class Handler:
    """Answers each row with the step's id, and remembers what it was given."""

    def __init__(self, step: Callable[[bytes], bytes] | None = None) -> None:
        self.step = step or self._step
        self.records: list[bytes] = []
        self.threads: set[int] = set()
        self.aborted = threading.Event()

    def _step(self, record: bytes) -> bytes:
        self.records.append(record)
        self.threads.add(threading.get_ident())
        step = _step.decode_step(record)
        return _step.encode_output(step.step_id, 7, struct.pack("<I", step.step_id & 0xFFFF) * step.num_rows)

    def info(self) -> dict[str, Any]:
        return {"version": pillion.__version__, "stepVersion": _step.VERSION, "pid": os.getpid()}

    def abort(self) -> None:
        self.aborted.set()

    def close(self) -> None:
        pass


class Engine:
    """A client of the worker."""

    def __init__(self, path: str) -> None:
        self.channel = grpc.insecure_channel(f"unix:{path}")

    def call(self, method: str, request: Any, reply: str, timeout: float | None = 60) -> Any:
        stub = self.channel.unary_unary(
            METHOD + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=MESSAGES[reply].FromString,
        )
        return stub(request, timeout=timeout)

    def refused(self, method: str, request: Any, reply: str) -> dict[str, Any]:
        with pytest.raises(grpc.RpcError) as caught:
            self.call(method, request, reply)
        metadata = dict(caught.value.trailing_metadata())
        error: dict[str, Any] = json.loads(metadata[ERROR_KEY])
        return error

    def steps(self, requests: Iterator[Any]) -> Any:
        stub = self.channel.stream_stream(
            METHOD + "Steps",
            request_serializer=MESSAGES["StepsRequest"].SerializeToString,
            response_deserializer=MESSAGES["StepsReply"].FromString,
        )
        return stub(requests, timeout=60)


class Worker:
    """A server whose steps run on a thread that stands for the main thread."""

    def __init__(self, path: str, handler: Handler, max_record_bytes: int = 1 << 20) -> None:
        self.server = GrpcServer(path, max_record_bytes)
        self.thread = threading.Thread(target=self.server.work)
        self.thread.start()
        self.server.publish(handler)

    def close(self) -> None:
        self.server.stop()
        self.thread.join(60)
        self.server.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    folder = tmp_path / "w"
    folder.mkdir(mode=0o700)
    return str(folder / "s")


@pytest.fixture(params=["own", "public"])
def start(
    path: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Engine]]:
    """Starts a worker whose stream goes either of its two ways."""
    if request.param == "public":
        monkeypatch.setattr(OwnStream, "create", lambda *_: None)
    made: list[Any] = []

    def start(handler: Handler, **options: Any) -> Engine:
        worker = Worker(path, handler, **options)
        engine = Engine(path)
        made.extend((engine.channel, worker))
        return engine

    yield start
    for one in made:
        one.close()


def message(record: StepRecord) -> Any:
    """The message that says what the record says, by way of ordinary protobuf types."""
    step = MESSAGES["Step"](step_id=record.step_id)
    words = {"freed": record.freed, "prompts": record.prompts, "bitmask": record.bitmask}
    words |= {"copies": [n for c in record.copies for n in c], "rows": [n for r in record.rows for n in r]}
    for name, values in words.items():
        setattr(step, name, struct.pack(f"<{len(values)}I", *values))
    step.new.extend(MESSAGES["NewSequence"](**new._asdict()) for new in record.new)
    step.request_ids.extend(record.request_ids)
    return step


def a_step() -> StepRecord:
    return StepRecord(
        step_id=1 << 40,
        freed=[3],
        new=[sequence(1, 0, 2, temperature=0.5, seed=1 << 63, flags=1, logprobs=4)],
        prompts=[7, 8],
        copies=[(1, 2)],
        bitmask=[0xFFFF_FFFF],
        rows=[(1, 0, 2, 1), (4, 9, 1, 1)],
        request_ids=["run-ü"],
    )


def test_a_message_becomes_the_record_of_the_other_bridges() -> None:
    record = a_step()
    got = _step.decode_step(_messages.record_of_step(message(record)))
    assert got == _step.decode_step(record.encode())
    empty = _step.decode_step(_messages.record_of_step(MESSAGES["Step"](step_id=9)))
    assert (empty.step_id, empty.num_rows, empty.new) == (9, 0, ())


def test_what_standard_libraries_write_is_what_is_read() -> None:
    # Field 7, packed fixed32, as a library with the unchanged file writes it.
    wire = b"\x3a\x10" + struct.pack("<4I", 5, 6, 1, 1)
    step = _step.decode_step(_messages.record_of_step(MESSAGES["Step"].FromString(wire)))
    assert list(step.rows) == [5, 6, 1, 1]


def test_an_output_keeps_all_its_sections() -> None:
    top = struct.pack("<IIf", 0, 5, -0.5)
    record = _step.encode_output(4, 9, struct.pack("<I", 3), struct.pack("<f", -1.5), top, '{"message": "ü"}')
    reply = _messages.step_output_of_record(record)
    assert (reply.step_id, reply.forward_ns, reply.tokens, reply.logprobs) == (4, 9, b"\x03\0\0\0", b"\0\0\xc0\xbf")
    assert [(t.index, t.id, t.logprob) for t in reply.top] == [(0, 5, -0.5)]
    assert json.loads(reply.error)["message"] == "ü"


@pytest.mark.parametrize("at", [0, 4, 6, 8, 12, 32, 36, 60])
def test_a_damaged_output_is_refused(at: int) -> None:
    record = bytearray(_step.encode_output(4, 9, bytes(8)))
    struct.pack_into("<H", record, at, 0x7777 if at != 12 else 1)
    with pytest.raises(StepRecordError):
        _messages.step_output_of_record(bytes(record))
    with pytest.raises(StepRecordError):
        _messages.step_output_of_record(bytes(record[:40]))


def test_a_stream_is_answered_in_order_on_the_one_thread(start: Callable[..., Engine]) -> None:
    handler = Handler()
    engine = start(handler)
    steps = [MESSAGES["StepsRequest"](step=message(StepRecord(step_id=i, rows=[(0, i, 1, 1)]))) for i in range(50)]
    replies = list(engine.steps(iter(steps)))
    assert [r.step.step_id for r in replies] == list(range(50))
    assert replies[3].step.tokens == struct.pack("<I", 3)
    engine.call("Prefill", message(a_step()), "StepOutput")
    assert len(handler.threads) == 1
    health = engine.call("Health", MESSAGES["HealthRequest"](), "HealthReply")
    assert (health.state, health.steps, health.slots_in_use) == (2, 51, 1)


def test_a_record_is_answered_with_a_record_and_its_slots_are_known(start: Callable[..., Engine]) -> None:
    engine = start(Handler())
    records = [a_step().encode(), StepRecord(step_id=2, rows=[(1, 2, 1, 1)]).encode(), b"no record"]
    replies = list(engine.steps(iter([MESSAGES["StepsRequest"](record=record) for record in records])))
    outputs = [decode_output(reply.record) for reply in replies]
    assert [o.step_id for o in outputs] == [1 << 40, 2, 0]
    assert outputs[2].error is not None
    assert engine.call("Health", MESSAGES["HealthRequest"](), "HealthReply").slots_in_use == 1
    assert engine.call("ClearCache", MESSAGES["ClearCacheRequest"](), "ClearCacheReply").freed == 1
    with pytest.raises(grpc.RpcError) as caught:
        list(engine.steps(iter([MESSAGES["StepsRequest"]()])))
    assert "neither" in str(caught.value)


def test_the_unary_forms_run_the_same_handler(start: Callable[..., Engine]) -> None:
    handler = Handler()
    engine = start(handler)
    enters = StepRecord(step_id=1, new=[sequence(2, 0, 1)], prompts=[9], rows=[(2, 0, 1, 1)])
    decodes = StepRecord(step_id=2, rows=[(2, 1, 1, 1)])
    leaves = StepRecord(step_id=3, freed=[2])
    for method, step in (("Prefill", enters), ("Decode", decodes), ("FilterBatch", leaves)):
        assert engine.call(method, message(step), "StepOutput").step_id == step.step_id
        for other in {"Prefill", "Decode", "FilterBatch"} - {method}:
            assert engine.refused(other, message(step), "StepOutput")["code"] == "invalid_argument"
    assert [_step.decode_step(r) for r in handler.records] == [
        _step.decode_step(s.encode()) for s in (enters, decodes, leaves)
    ]
    assert engine.call("Warmup", MESSAGES["WarmupRequest"](), "WarmupReply").forward_ns == 21


def test_clear_cache_frees_what_the_engine_before_has_left(start: Callable[..., Engine]) -> None:
    handler = Handler()
    engine = start(handler)
    new = [sequence(slot, 0, 1) for slot in (4, 1)]
    engine.call("Prefill", message(StepRecord(new=new, prompts=[1])), "StepOutput")
    assert engine.call("ClearCache", MESSAGES["ClearCacheRequest"](), "ClearCacheReply").freed == 2
    assert [list(_step.decode_step(r).freed) for r in handler.records[1:]] == [[1], [4]]
    assert engine.call("ClearCache", MESSAGES["ClearCacheRequest"](), "ClearCacheReply").freed == 0


def test_one_engine_at_a_time(start: Callable[..., Engine], path: str) -> None:
    engine = start(Handler())
    go_on = threading.Event()

    def requests() -> Iterator[Any]:
        yield MESSAGES["StepsRequest"](step=message(StepRecord(step_id=1)))
        go_on.wait(60)

    replies = engine.steps(requests())
    assert next(replies).step.step_id == 1
    other = Engine(path)
    error = other.refused("ClearCache", MESSAGES["ClearCacheRequest"](), "ClearCacheReply")
    assert (error["code"], error["message"]) == ("bridge_unavailable", "the worker is driven by another engine")
    # What never waits for a step is answered all the same.
    assert other.call("Health", MESSAGES["HealthRequest"](), "HealthReply").state == 2
    replies.cancel()
    assert other.call("ClearCache", MESSAGES["ClearCacheRequest"](), "ClearCacheReply").freed == 0
    go_on.set()
    other.channel.close()


def test_the_stream_goes_its_own_way_with_this_grpcio(path: str) -> None:
    worker = Worker(path, Handler())
    assert worker.server._own_stream is not None
    worker.close()


def test_the_end_of_an_engine_is_seen_while_its_step_runs(start: Callable[..., Engine], path: str) -> None:
    handler = Handler()
    running, go_on = threading.Event(), threading.Event()
    plain = handler.step

    def step(record: bytes) -> bytes:
        running.set()
        assert go_on.wait(60)
        return plain(record)

    handler.step = step
    engine = start(handler)
    record = StepRecord(step_id=1, new=[sequence(2, 0, 1)], prompts=[9], rows=[(2, 0, 1, 1)]).encode()
    replies = engine.steps(iter([MESSAGES["StepsRequest"](record=record)]))
    assert running.wait(60)
    replies.cancel()
    other = Engine(path)
    # It waits for the step, and then for nothing else: the step ends only once the call is sure to have come.
    clear = other.channel.unary_unary(METHOD + "ClearCache").future(b"", timeout=60)
    assert other.call("Health", MESSAGES["HealthRequest"](), "HealthReply").slots_in_use == 1
    go_on.set()
    assert MESSAGES["ClearCacheReply"].FromString(clear.result(60)).freed == 1
    other.channel.close()


@pytest.mark.parametrize("length", [1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_a_record_alone_is_framed_as_protobuf_does(length: int) -> None:
    record = bytes(length)
    wire = MESSAGES["StepsRequest"](record=record).SerializeToString()
    assert _messages.frame(length) + record == wire
    assert _messages.framed_record(wire) == record
    for other in (
        wire[:-1],
        wire + b"\0",
        wire + wire,
        b"\x0a" + wire[1:],
        b"\x12\0",
        b"\x12",
        b"",
        b"\x12" + b"\xff" * 9,
    ):
        assert _messages.framed_record(other) is None


def test_abort_comes_through_while_a_step_runs(start: Callable[..., Engine]) -> None:
    handler = Handler()
    running = threading.Event()

    def step(record: bytes) -> bytes:
        running.set()
        assert handler.aborted.wait(60)
        return _step.encode_output(5, 0)

    handler.step = step
    engine = start(handler)
    replies = engine.steps(iter([MESSAGES["StepsRequest"](step=message(StepRecord(step_id=5)))]))
    assert running.wait(60)
    engine.call("Abort", MESSAGES["AbortRequest"](), "AbortReply")
    assert next(replies).step.step_id == 5


def test_what_a_model_raises_is_the_steps_error_and_what_is_no_record_ends_the_stream(
    start: Callable[..., Engine],
) -> None:
    answers: list[Any] = [ValueError("wrong: ü"), SystemExit(3), bytes(5000), b"PLLN"]

    def step(_: bytes) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return bytes(answer)

    engine = start(Handler(step), max_record_bytes=4000)
    replies = engine.steps(iter([MESSAGES["StepsRequest"](step=message(StepRecord(step_id=i))) for i in range(4)]))
    errors = [json.loads(next(replies).step.error) for _ in range(3)]
    assert [e["code"] for e in errors] == ["python_error", "python_error", "unsupported"]
    assert "wrong: ü" in errors[0]["message"]
    with pytest.raises(grpc.RpcError) as caught:
        next(replies)
    error = json.loads(dict(caught.value.trailing_metadata())[ERROR_KEY])
    assert error["code"] == "internal"
    assert "a step record cannot be read" in error["message"]


def test_forward_records_pass_as_they_are(start: Callable[..., Engine]) -> None:
    record = _step.HEADER.pack(_step.MAGIC, _step.VERSION, 4, 40, 1, 6, 0) + bytes(8)
    engine = start(Handler(lambda asked: record if asked == b"asked" else b""))
    request = MESSAGES["ForwardRecord"](record=b"asked")
    assert engine.call("Forward", request, "ForwardRecord").record == record
    stream = engine.steps(iter([MESSAGES["StepsRequest"](record=b"asked")]))
    assert next(stream).record == record


def test_a_handler_that_knows_no_forward_says_so(start: Callable[..., Engine]) -> None:
    def step(_: bytes) -> bytes:
        raise PillionError("unsupported", "records of kind 2 are not run")

    error = start(Handler(step)).refused("Forward", MESSAGES["ForwardRecord"](record=bytes(40)), "ForwardRecord")
    assert (error["code"], error["message"]) == ("unsupported", "records of kind 2 are not run")


def test_info_agrees_on_a_version_and_waits_for_the_model(path: str) -> None:
    server = GrpcServer(path, 1 << 20)
    engine = Engine(path)
    try:
        ask = MESSAGES["InfoRequest"]
        early = engine.call("Info", ask(oldest_protocol=0, newest_protocol=9), "InfoReply")
        assert (early.protocol, early.worker, early.pid) == (1, "", os.getpid())
        error = engine.refused("Info", ask(oldest_protocol=7, newest_protocol=8), "InfoReply")
        assert error["code"] == "version_mismatch"
        assert engine.refused("Decode", MESSAGES["Step"](rows=bytes(16)), "StepOutput")["code"] == "worker_lost"
        threading.Timer(0, server.publish, [Handler()]).start()
        late = engine.call("Info", ask(newest_protocol=1, wait_until_loaded=True), "InfoReply")
        assert json.loads(late.worker)["version"] == pillion.__version__
        server.fail(PillionError("model_load_failed", "no weights: " + "x" * 9000))
        error = engine.refused("Info", ask(newest_protocol=1), "InfoReply")
        assert error["message"].startswith("no weights: x")
    finally:
        engine.channel.close()
        server.close()
    assert not os.path.lexists(path)


def test_a_call_without_a_deadline_is_answered(start: Callable[..., Engine]) -> None:
    engine = start(Handler())
    ask = MESSAGES["InfoRequest"](newest_protocol=1, wait_until_loaded=True)
    assert engine.call("Info", ask, "InfoReply", timeout=None).pid == os.getpid()
    assert engine.call("Decode", MESSAGES["Step"](step_id=5, rows=bytes(16)), "StepOutput", timeout=None).step_id == 5


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [((2, 3), (1, 2), 2), ((1, 2), (2, 3), 2), ((1, 2), (1, 2), 2), ((2, 3), (1, 1), None), ((1, 2), (3, 4), None)],
)
def test_the_version_before_ones_own_is_spoken_too(
    path: str, ours: tuple[int, int], theirs: tuple[int, int], agreed: int | None
) -> None:
    server = GrpcServer(path, 1 << 20, protocols=ours)
    engine = Engine(path)
    try:
        ask = MESSAGES["InfoRequest"](oldest_protocol=theirs[0], newest_protocol=theirs[1])
        if agreed is not None:
            assert engine.call("Info", ask, "InfoReply").protocol == agreed
            return
        error = engine.refused("Info", ask, "InfoReply")
        assert (error["code"], "update the older" in error["remedy"]) == ("version_mismatch", True)
        assert f"versions {theirs[0]} to {theirs[1]}" in error["message"]
        assert f"this worker {ours[0]} to {ours[1]}" in error["message"]
    finally:
        engine.channel.close()
        server.close()


def test_addresses_and_paths_that_cannot_be(path: str, tmp_path: Path) -> None:
    for address in ("tcp:1", "/run/x", "unix:relative", ""):
        with pytest.raises(PillionError, match="absolute path"):
            socket_path(address)
    assert socket_path(f"unix:{path}") == path
    with pytest.raises(PillionError, match="107 are possible"):
        GrpcServer(str(tmp_path / ("x" * 120)), 1)
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    with pytest.raises(PillionError, match="open to others"):
        GrpcServer(str(open_to_all / "s"), 1)
    Path(path).write_text("mine")
    with pytest.raises(PillionError, match="exists and is in use"):
        GrpcServer(path, 1)
    assert Path(path).read_text() == "mine"


def test_a_socket_in_use_stays_and_a_dead_one_is_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(PillionError, match="exists and is in use"):
            GrpcServer(path, 1)
    server = GrpcServer(path, 1)
    try:
        assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0
    finally:
        server.close()


def test_without_grpcio_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n == "grpc" or n.startswith("pillion.transports._grpc")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(PackageMissingError, match="grpcio") as caught:
        importlib.import_module("pillion.transports._grpc")
    assert caught.value.remedy is not None
    assert "pip install 'pillion[grpc]'" in caught.value.remedy
