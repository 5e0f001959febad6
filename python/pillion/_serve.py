"""The worker process: says hello, loads, answers steps until it is told to end or its parent is gone.

Two threads. The main one loads and runs steps, so that Python code sees the thread that it expects. The other one reads
the control socket and sends heartbeats, so that a long step does not look like a dead process. Standard output and
standard error are pipes that the parent forwards line by line; the protocol is on neither.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import json
import logging
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol

import pillion
from pillion import _forward, _life, _step
from pillion._config import LoadConfig, Progress
from pillion.errors import PillionError, StepRecordError, error_json
from pillion.transports import Transport
from pillion.transports._pool import PoolShape, TensorPool
from pillion.transports._shm import RingShape, ShmTransport

if TYPE_CHECKING:
    from pillion.transports._grpc import GrpcServer

__all__ = ["Control", "StepHandler", "main", "serve", "serve_grpc"]

TRANSPORT_VERSION: Final = 1
"""Of the control messages and of the rings; the other side refuses another one."""

_MAX_FRAME: Final = 4 << 20
_LENGTH: Final = struct.Struct("<I")
_MAX_LOG: Final = 16 * 1024


class StepHandler(Protocol):
    """What runs the steps: `pillion.worker.Handler`, or a test's own."""

    def info(self) -> Mapping[str, Any]: ...

    def step(self, record: bytes) -> bytes: ...

    def close(self) -> None: ...


def main(control_fd: int, open_handler: Callable[[LoadConfig, Progress], StepHandler] | None = None) -> None:
    """Lives the whole life of a worker process: exits with 0 when it was asked to end, with 1 if loading failed."""
    _prepare_process()
    control = Control(socket.socket(fileno=control_fd))
    control.send(
        {
            "type": "hello",
            "transportVersion": TRANSPORT_VERSION,
            "version": pillion.__version__,
            "stepVersion": _step.VERSION,
            "pid": os.getpid(),
        }
    )
    load, fds = control.receive_load()
    # Last of them, where the parent's system has it.
    life = fds.pop() if fds else None
    logging.getLogger().addHandler(_LogHandler(control))
    if logging.getLogger().level == logging.WARNING:
        # The level that nobody has set; the other side filters by itself.
        logging.getLogger().setLevel(logging.INFO)
    logging.captureWarnings(True)
    listener = _Listener(control, load["heartbeatMs"] / 1000, life)
    listener.start()
    listener.is_ready.wait()
    try:
        ways = _open_ways(load, fds)
        handler = _load(load["config"], control, open_handler)
    except BaseException as error:
        control.send({"type": "failed", "error": json.loads(error_json(error, "load"))})
        _leave(1)
        return
    listener.on_abort = getattr(handler, "abort", None)
    use_pool = getattr(handler, "use_pool", None)
    if isinstance(ways, ShmTransport) and ways.pool is not None and use_pool is not None:
        use_pool(ways.pool)
    # What has been loaded stays until the process ends; no collection in the middle of a step need look at it.
    gc.collect()
    gc.freeze()
    if isinstance(ways, Transport):
        serve(ways, handler, control)
    else:
        serve_grpc(ways, handler, control)
    _leave(0)


def _open_ways(load: Mapping[str, Any], fds: list[int]) -> Transport | GrpcServer:
    """What the steps come by: rings, or a socket with gRPC."""
    if "grpc" not in load:
        rings, pools = fds[:4], fds[4:]
        pool = TensorPool(pools, PoolShape.from_json(load["pool"])) if load.get("pool") else None
        return ShmTransport(rings, RingShape.from_json(load["steps"]), RingShape.from_json(load["answers"]), pool)
    # Only here: shared memory needs no package.
    from pillion.transports._grpc import GrpcServer

    listen = load["grpc"]
    return GrpcServer(listen["path"], listen["maxRecordBytes"], ends_with_stream=True)


def serve_grpc(server: GrpcServer, handler: StepHandler, control: Control | None = None) -> None:
    """Says that the worker is ready and answers steps until it is told to end."""
    try:
        with _Stopping():
            server.publish(handler)
            if control is not None:
                control.send({"type": "ready", "info": dict(handler.info())})
            server.work()
    finally:
        handler.close()
        server.close()


def serve(transport: Transport, handler: StepHandler, control: Control | None = None) -> None:
    """Says that the worker is ready and answers steps until there are no more."""
    stopping = _Stopping()
    try:
        with stopping:
            if control is not None:
                control.send({"type": "ready", "info": dict(handler.info())})
            receive, step, send = transport.receive, handler.step, transport.send
            while not stopping.asked and (record := receive()) is not None:
                try:
                    answer = step(record)
                except _Terminated:
                    raise
                except BaseException as error:
                    # Also SystemExit: a model that raises it ends its rows, not the process.
                    answer = _failed(record, error)
                try:
                    send(answer)
                except PillionError as error:
                    send(_failed(record, error))
    finally:
        handler.close()
        transport.close()


class Control:
    """The control socket: JSON messages, each behind its length. Safe to send on from several threads."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._lock = threading.Lock()
        self._rest = bytearray()

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends one message. If nobody is there any more nothing happens: the listener notices that."""
        # A lone surrogate, from a file name for one, is no text for the other side.
        data = json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")
        with self._lock, contextlib.suppress(OSError):
            self.socket.sendall(_LENGTH.pack(len(data)) + data)

    def receive_load(self) -> tuple[dict[str, Any], list[int]]:
        """Waits for the first message and the descriptors that come with it."""
        data, fds, _, _ = socket.recv_fds(self.socket, 1 << 16, 8)
        for fd in fds:
            os.set_inheritable(fd, False)
        messages = self._feed(data)
        while not messages:
            messages = self.receive()
        (message,) = messages
        if message.get("type") != "load":
            raise StepRecordError(f"the first message must be load, got {message.get('type')!r}")
        return message, list(fds)

    def receive(self) -> list[dict[str, Any]]:
        """Waits for bytes and gives the messages that they complete. Raises `EOFError` when the other side has gone."""
        return self._feed(self.socket.recv(1 << 16))

    def _feed(self, data: bytes) -> list[dict[str, Any]]:
        if not data:
            raise EOFError
        self._rest += data
        messages = []
        while len(self._rest) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._rest)
            if length > _MAX_FRAME:
                raise StepRecordError(f"a control message of {length} bytes, at most {_MAX_FRAME} are taken")
            end = _LENGTH.size + length
            if len(self._rest) < end:
                break
            messages.append(json.loads(self._rest[_LENGTH.size : end]))
            del self._rest[:end]
        return messages


class _Listener(threading.Thread):
    """Sends heartbeats and hears what the parent says. Ends the process when the parent is gone, and lets the parent
    see at once when the process ends."""

    def __init__(self, control: Control, interval: float, life: int | None = None) -> None:
        super().__init__(name="pillion-control", daemon=True)
        self.on_abort: Callable[[], None] | None = None
        self.is_ready = threading.Event()
        self._life = life
        self._control = control
        self._interval = interval

    def run(self) -> None:
        try:
            # This thread, since it lives as long as the process.
            if self._life is not None:
                _life.hold(self._life)
        finally:
            self.is_ready.set()
        poll = select.poll()
        poll.register(self._control.socket, select.POLLIN)
        due = time.monotonic() + self._interval
        while True:
            wait = due - time.monotonic()
            if wait <= 0:
                self._control.send({"type": "heartbeat"})
                due = time.monotonic() + self._interval
            elif poll.poll(wait * 1000):
                try:
                    messages = self._control.receive()
                except (OSError, EOFError):
                    self._control.socket.close()
                    _die_with_parent()
                    return
                for message in messages:
                    if message.get("type") == "abort" and self.on_abort is not None:
                        self.on_abort()


class _LogHandler(logging.Handler):
    """Sends log records to the parent."""

    def __init__(self, control: Control) -> None:
        super().__init__()
        self._control = control

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            name = "" if record.name in ("root", "pillion", "py.warnings") else f"{record.name}: "
            message: dict[str, Any] = {
                "type": "log",
                "level": _level(record.levelno),
                "message": (name + text.rstrip("\n"))[:_MAX_LOG],
            }
            request_id = getattr(record, "request_id", None)
            if isinstance(request_id, str):
                message["requestId"] = request_id
            self._control.send(message)
        except Exception:
            self.handleError(record)


class _Stopping:
    """While it is entered SIGTERM ends the step that runs, if Python code runs, and the loop after it."""

    def __init__(self) -> None:
        self.asked = False
        self._inside = False

    def __enter__(self) -> None:
        self._inside = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_signal)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._inside = False
        return kind is _Terminated

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        if self._inside:
            raise _Terminated


class _Terminated(BaseException):
    """SIGTERM came."""


def _load(
    config: Any, control: Control, open_handler: Callable[[LoadConfig, Progress], StepHandler] | None
) -> StepHandler:
    def progress(stage: str, done: float, total: float | None) -> None:
        message: dict[str, Any] = {"type": "progress", "stage": stage, "done": done}
        if total is not None:
            message["total"] = total
        control.send(message)

    if open_handler is None:
        from pillion.worker import Handler

        open_handler = Handler
    return open_handler(LoadConfig.from_json(json.dumps(config)), progress)


def _failed(record: bytes, error: BaseException) -> bytes:
    return _forward.failed(record, error_json(error, "forward"))


def _prepare_process() -> None:
    # A crash in native code then leaves the Python stack in the error that the caller sees.
    faulthandler.enable()
    # Ctrl-C on the parent's terminal is the parent's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # There is no script, but libraries look at its name.
    sys.argv = [""]
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, errors="backslashreplace")
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as name:
        name.write("pillion-worker")


def _leave(code: int) -> None:
    """Ends the process, but leaves the interpreter whole: native libraries bear its end badly, and threads delay it."""
    for end in (atexit._run_exitfuncs, logging.shutdown, sys.stdout.flush, sys.stderr.flush):
        # The parent takes what is left.
        with contextlib.suppress(BaseException):
            end()
    os._exit(code)


def _die_with_parent() -> None:
    """Together with every process that this one started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _level(number: int) -> str:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warn"
    return "info" if number >= logging.INFO else "debug"
