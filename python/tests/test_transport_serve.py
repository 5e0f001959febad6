"""The worker's main loop, with its parent in a thread of the same process."""

from __future__ import annotations

import gc
import json
import logging
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pillion
from pillion import _life, _serve, _step
from pillion._config import LoadConfig, Progress
from pillion.errors import PackageMissingError, PillionError, StepRecordError
from pillion.transports import Transport
from records import decode_output

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files and eventfds are Linux's")

CONFIG = {
    "model": {"kind": "class", "spec": "a:B", "options": None},
    "device": None,
    "dtype": None,
    "numThreads": 1,
    "limits": {"maxContext": None, "maxBatchTokens": 8, "maxRunning": 2, "kvCacheBytes": None},
}
Frame = dict[str, Any]
# The kernel's bits in the word of a lock: somebody waits, and the holder has died.
WAITERS = 0x8000_0000
ORPHANED = WAITERS | 0x4000_0000


class Parent:
    """What Rust does with the control socket."""

    def __init__(self) -> None:
        self.socket, self.other = socket.socketpair()
        self.socket.settimeout(60)
        self.frames: list[Frame] = []

    def read(self) -> Frame:
        (length,) = struct.unpack("<I", self._exactly(4))
        frame: Frame = json.loads(self._exactly(length))
        self.frames.append(frame)
        return frame

    def read_until(self, kind: str) -> Frame:
        while (frame := self.read())["type"] != kind:
            pass
        return frame

    def write(self, message: Frame, fds: list[int] | None = None) -> None:
        data = json.dumps(message).encode()
        socket.send_fds(self.socket, [struct.pack("<I", len(data)) + data], fds or [])

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data


@pytest.fixture
def parent() -> Iterator[Parent]:
    parent = Parent()
    yield parent
    parent.socket.close()
    parent.other.close()


@pytest.fixture
def exits() -> list[int]:
    """The codes with which a worker would have ended this process."""
    return []


@pytest.fixture
def process(parent: Parent, exits: list[int], monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Puts back what a worker does to its process. The event says that it would have died with its parent."""
    gone = threading.Event()
    monkeypatch.setattr(_serve, "_die_with_parent", gone.set)
    monkeypatch.setattr(_serve, "_leave", exits.append)
    monkeypatch.setattr(_serve, "_prepare_process", lambda: None)
    root = logging.getLogger()
    handlers, level, term = list(root.handlers), root.level, signal.getsignal(signal.SIGTERM)
    yield gone
    # Its listener must not find the real function there when it sees that the parent has gone.
    parent.socket.close()
    for thread in threading.enumerate():
        if thread.name == "pillion-control":
            thread.join()
    gc.unfreeze()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    signal.signal(signal.SIGTERM, term)


class Handler:
    """Answers with the record's own length."""

    def __init__(self, step: Callable[[bytes], bytes] | None = None) -> None:
        self.step = step or (lambda record: _step.encode_output(step_id(record), 0, struct.pack("<I", len(record))))
        self.closed = 0

    def info(self) -> dict[str, Any]:
        return {"version": pillion.__version__, "pid": os.getpid()}

    def close(self) -> None:
        self.closed += 1


class Queue(Transport):
    """A transport of given records."""

    def __init__(self, *records: bytes | None, max_answer: int = 1 << 20) -> None:
        self.records = list(records)
        self.answers: list[bytes] = []
        self.max_answer = max_answer
        self.closed = 0

    def receive(self) -> bytes | None:
        return self.records.pop(0) if self.records else None

    def send(self, record: bytes) -> None:
        if len(record) > self.max_answer:
            raise PillionError("unsupported", "too long")
        self.answers.append(record)

    def close(self) -> None:
        self.closed += 1


def step_id(record: bytes) -> int:
    return int(struct.unpack_from("<Q", record, 16)[0])


def record(number: int) -> bytes:
    return bytes(16) + struct.pack("<Q", number)


def test_each_step_is_answered_and_everything_is_closed() -> None:
    handler, transport = Handler(), Queue(record(1), record(2))
    _serve.serve(transport, handler)
    assert [step_id(answer) for answer in transport.answers] == [1, 2]
    assert (handler.closed, transport.closed) == (1, 1)


def test_what_a_handler_raises_is_the_steps_error() -> None:
    def step(data: bytes) -> bytes:
        raise ValueError(f"no step {step_id(data)}")

    transport = Queue(record(7), b"short")
    _serve.serve(transport, Handler(step))
    first, second = (decode_output(answer) for answer in transport.answers)
    assert (first.step_id, second.step_id) == (7, 0)
    assert first.error is not None
    assert first.error["code"] == "python_error"
    assert "no step 7" in first.error["message"]


def test_an_answer_that_does_not_fit_becomes_an_error() -> None:
    transport = Queue(record(3), max_answer=2000)
    _serve.serve(transport, Handler(lambda _: bytes(4000)))
    (answer,) = (decode_output(a) for a in transport.answers)
    assert answer.step_id == 3
    assert answer.error is not None
    assert answer.error["code"] == "unsupported"


def test_sigterm_ends_a_step_that_waits(process: threading.Event) -> None:
    def step(_: bytes) -> bytes:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal's handler ran before")

    handler, transport = Handler(step), Queue(record(1), record(2))
    _serve.serve(transport, handler)
    assert transport.answers == []
    assert (handler.closed, transport.closed) == (1, 1)


def test_sigterm_ends_the_loop_though_a_handler_swallows_it(process: threading.Event) -> None:
    def step(data: bytes) -> bytes:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            return _step.encode_output(step_id(data), 0, error=json.dumps({"message": type(error).__name__}))
        raise AssertionError("the signal's handler ran before")

    transport = Queue(record(1), record(2))
    _serve.serve(transport, Handler(step))
    assert len(transport.answers) == 1


def start_messages(parent: Parent, shape: dict[str, int]) -> tuple[list[int], list[int], mmap.mmap]:
    """Plays the parent's part up to `load`. Gives the descriptors of rings (the page of life is the third) and bells,
    and the ring of steps."""
    size = 4096 + shape["slots"] * shape["slotBytes"]
    rings = [os.memfd_create("steps"), os.memfd_create("answers"), os.memfd_create("life")]
    for fd in rings:
        os.ftruncate(fd, size)
    bells = [os.eventfd(0), os.eventfd(0)]
    load = {"type": "load", "config": CONFIG, "heartbeatMs": 1, "steps": shape, "answers": shape}
    parent.write(load, [*rings[:2], *bells, rings[2]])
    return rings, bells, mmap.mmap(rings[0], size)


def run_main(parent: Parent, open_handler: Callable[[LoadConfig, Progress], Any], play: Callable[[], None]) -> None:
    """The worker here, since it wants the main thread, and its parent in another."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            play()
        except BaseException as error:
            failed.append(error)
            # So that the worker, which waits for this side, ends.
            parent.socket.close()

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        _serve.main(parent.other.detach(), open_handler)
    finally:
        thread.join()
        if failed:
            raise failed[0]


def test_a_whole_life(parent: Parent, process: threading.Event, exits: list[int]) -> None:
    shape = {"slots": 2, "slotBytes": 4096}
    rings, bells, steps = start_messages(parent, shape)
    handler = Handler()

    def open_handler(config: LoadConfig, progress: Progress) -> Handler:
        assert config.num_threads == 1
        progress("weights", 1.0, None)
        logging.getLogger("some.library").warning("watch out %s", "\udcff", extra={"request_id": "r1"})
        return handler

    def play() -> None:
        hello = parent.read()
        assert hello == {
            "type": "hello",
            "transportVersion": _serve.TRANSPORT_VERSION,
            "version": pillion.__version__,
            "stepVersion": _step.VERSION,
            "pid": os.getpid(),
        }
        assert parent.read_until("ready")["info"] == handler.info()
        parent.read_until("heartbeat")
        steps[4096 : 4096 + 24] = record(9)
        struct.pack_into("<QIIQ", steps, 0, 0, 1, 24, 4096)
        os.eventfd_write(bells[0], 1)
        assert os.eventfd_read(bells[1]) == 1
        with mmap.mmap(rings[1], 0) as answers:
            number, kind, length, offset = struct.unpack_from("<QIIQ", answers)
            assert (number, kind, offset) == (0, 1, 4096)
            assert decode_output(answers[offset : offset + length]).tokens == [24]
        struct.pack_into("<QIIQ", steps, 64, 1, 2, 0, 4096)
        os.eventfd_write(bells[0], 1)

    run_main(parent, open_handler, play)
    assert (handler.closed, exits) == (1, [0])
    logs = [frame for frame in parent.frames if frame["type"] == "log"]
    assert logs == [{"type": "log", "level": "warn", "message": "some.library: watch out ?", "requestId": "r1"}]
    progress = [frame for frame in parent.frames if frame["type"] == "progress"]
    assert progress == [{"type": "progress", "stage": "weights", "done": 1.0}]
    parent.socket.close()
    assert process.wait(60), "the worker dies with its parent"
    with mmap.mmap(rings[2], mmap.PAGESIZE) as life:
        wait_until(lambda: struct.unpack_from("<I", life, _life.WORD)[0] == ORPHANED)
    steps.close()
    for fd in [*rings, *bells]:
        os.close(fd)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PackageMissingError("no torch"), "python_package_missing"),
        (ValueError("\udcff"), "python_error"),
        (SystemExit(3), "python_error"),
    ],
)
def test_a_load_that_raises_is_told_and_ends_the_process(
    parent: Parent, process: threading.Event, exits: list[int], error: BaseException, code: str
) -> None:
    rings, bells, steps = start_messages(parent, {"slots": 2, "slotBytes": 4096})
    steps.close()

    def open_handler(config: LoadConfig, progress: Progress) -> Handler:
        raise error

    def play() -> None:
        told = parent.read_until("failed")["error"]
        assert (told["code"], told["stage"]) == (code, "load")

    run_main(parent, open_handler, play)
    assert exits == [1]
    for fd in [*rings, *bells]:
        os.close(fd)


def test_messages_come_whole_whatever_the_parts(parent: Parent) -> None:
    control = _serve.Control(parent.other)
    data = b"".join(
        struct.pack("<I", len(body)) + body for body in (json.dumps({"type": "x", "n": n}).encode() for n in range(3))
    )
    got: list[Frame] = []
    for at in range(len(data)):
        parent.socket.send(data[at : at + 1])
        got += control.receive()
    assert [frame["n"] for frame in got] == [0, 1, 2]
    parent.socket.send(struct.pack("<I", 1 << 30))
    with pytest.raises(StepRecordError, match="1073741824 bytes"):
        control.receive()
    parent.socket.close()
    with pytest.raises(EOFError):
        control.receive()
    control.send({"type": "heartbeat"})


def test_the_first_message_must_be_load(parent: Parent) -> None:
    control = _serve.Control(parent.other)
    parent.write({"type": "abort"})
    with pytest.raises(StepRecordError, match="must be load, got 'abort'"):
        control.receive_load()


def test_a_long_message_comes_with_its_descriptors(parent: Parent) -> None:
    control = _serve.Control(parent.other)
    reader, writer = os.pipe()
    message = {"type": "load", "config": "x" * (1 << 20)}

    def send() -> None:
        data = json.dumps(message).encode()
        sent = socket.send_fds(parent.socket, [struct.pack("<I", len(data))], [reader])
        assert sent == 4
        parent.socket.sendall(data)

    thread = threading.Thread(target=send)
    thread.start()
    got, fds = control.receive_load()
    thread.join()
    assert got == message
    assert len(fds) == 1
    assert not os.get_inheritable(fds[0])
    for fd in (reader, writer, *fds):
        os.close(fd)


def test_frames_of_many_threads_do_not_mix(parent: Parent) -> None:
    control = _serve.Control(parent.other)

    def send() -> None:
        for _ in range(50):
            control.send({"type": "log", "text": "y" * 999})

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        assert parent.read()["text"] == "y" * 999
    for thread in threads:
        thread.join()


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until
        os.sched_yield()


def test_the_end_of_the_thread_that_holds_the_lock_is_seen() -> None:
    fd = os.memfd_create("life")
    os.ftruncate(fd, mmap.PAGESIZE)
    with mmap.mmap(fd, mmap.PAGESIZE) as page:

        def word() -> int:
            return int(struct.unpack_from("<I", page, _life.WORD)[0])

        held: list[object] = []
        thread = threading.Thread(
            target=lambda: held.extend([_life.hold(fd), threading.get_native_id() == word() & ~WAITERS])
        )
        thread.start()
        thread.join()
        assert held == [True, True]
        wait_until(lambda: word() == ORPHANED)


def test_a_machine_where_the_end_cannot_be_seen_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "pdp11")
    fd = os.memfd_create("life")
    os.ftruncate(fd, mmap.PAGESIZE)
    with mmap.mmap(fd, mmap.PAGESIZE) as page:
        assert not _life.hold(fd)
        assert page[:4] == bytes(4)
    with pytest.raises(OSError):
        os.fstat(fd)


def test_abort_reaches_a_handler_that_can(parent: Parent, process: threading.Event) -> None:
    listener = _serve._Listener(_serve.Control(parent.other), 60)
    aborted = threading.Event()
    parent.write({"type": "abort"})
    parent.write({"type": "from the future"})
    listener.on_abort = aborted.set
    listener.start()
    assert aborted.wait(60)
    parent.socket.close()
    assert process.wait(60)
    listener.join(60)
    assert not listener.is_alive()
