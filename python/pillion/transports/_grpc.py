"""Step records over gRPC: the service of `proto/worker.proto` on a Unix socket.

Steps run on one thread, the one that calls `GrpcServer.work`, so that Python code sees the thread that it was loaded
on. That thread also carries the stream: a hop to another one would cost a fifth of a round trip. The pool's few other
threads answer what must not wait for a forward pass (`Info`, `Health`, `Abort`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any, Final, Protocol

import pillion
from pillion import _forward, _step
from pillion.errors import PillionError, StepRecordError, UnsupportedError, error_json
from pillion.transports._grpc_stream import OwnStream, StreamCall
from pillion.transports._grpcio import DecodeError, grpc
from pillion.transports._messages import MESSAGES, frame, framed_record, record_of_step, step_output_of_record

__all__ = ["OLDEST_PROTOCOL", "PROTOCOL", "GrpcServer", "Served"]

PROTOCOL: Final = 1
"""The version of `pillion.worker.v1` that this side speaks."""
OLDEST_PROTOCOL: Final = max(1, PROTOCOL - 1)
"""The version before one's own is spoken too: the two sides are updated apart."""

ERROR_KEY: Final = "pillion-error-bin"
_SERVICE: Final = "pillion.worker.v1.Worker"
# Of a Unix socket's address, without the closing zero. Systems that descend from BSD have less than Linux.
_MAX_PATH: Final = 107 if sys.platform == "linux" else 103
# Headers have to fit into what an HTTP/2 client takes.
_MAX_QUOTED: Final = 2000
# What a message has beyond its record.
_SLACK: Final = 64 * 1024
# For the stream of an engine that has gone to be seen as ended.
_STREAM_END: Final = 2.0
_THREADS: Final = 8
_MAX_CALLS: Final = 64
# Where in a step record the counts of freed slots and of new sequences are.
_NUM_FREED: Final = slice(36, 40)
_NUM_NEW: Final = slice(44, 48)
_NONE: Final = bytes(4)
# The kind in the header of a record that answers a forward record.
_KIND: Final = slice(6, 8)
_FORWARD_OUTPUT: Final = b"\x04\x00"
_STATES: Final = {"loading": 1, "ready": 2, "closing": 3}

log = logging.getLogger("pillion")

_reply: Final = MESSAGES["StepsReply"]


class Served(Protocol):
    """What runs the steps: `pillion.worker.Handler`, or a test's own."""

    def info(self) -> Mapping[str, Any]: ...

    def step(self, record: bytes) -> bytes: ...

    def close(self) -> None: ...


class GrpcServer:
    """The service, from before the model is loaded until it is closed."""

    def __init__(
        self,
        path: str,
        max_record_bytes: int,
        *,
        ends_with_stream: bool = False,
        protocols: tuple[int, int] = (OLDEST_PROTOCOL, PROTOCOL),
    ) -> None:
        """Listens on `path`. `ends_with_stream` is for a worker that belongs to one engine; `protocols`, for tests of
        an update, the oldest and the newest version that it speaks."""
        self._protocols = protocols
        self._path = _free(path)
        self._max_bytes = max_record_bytes
        self._ends_with_stream = ends_with_stream
        self._main = _MainThread()
        self._state = "loading"
        self._loaded = threading.Event()
        self._handler: Served | None = None
        self._worker = ""
        self._failure: BaseException | None = None
        self._steps = 0
        self._slots: set[int] = set()
        self._lock = threading.Lock()
        self._stream: StreamCall | _StreamEnd | None = None
        pool = futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="pillion-grpc")
        options = [
            ("grpc.max_receive_message_length", max_record_bytes + _SLACK),
            ("grpc.max_send_message_length", max_record_bytes + _SLACK),
            ("grpc.so_reuseport", 0),
            # One window for all; to measure the way by pings costs a frame for each step.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", 1 << 20),
        ]
        self._server = grpc.server(pool, options=options, maximum_concurrent_rpcs=_MAX_CALLS)
        self._server.add_generic_rpc_handlers((self._service(),))
        # For the moment between the socket's creation and the first connection, should the folder be open to others.
        mask = os.umask(0o177)
        try:
            self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise PillionError("bridge_unavailable", f"cannot listen on {path}: {error}") from error
        finally:
            os.umask(mask)
        self._own_stream = OwnStream.create(
            self._server, f"/{_SERVICE}/Steps", lambda call: self._main.start(self._run_call, call)
        )
        self._server.start()
        if self._own_stream is not None:
            self._own_stream.start()

    def publish(self, handler: Served) -> None:
        """The model is loaded: steps may come."""
        self._worker = json.dumps(dict(handler.info()))
        self._handler = handler
        self._state = "ready"
        self._loaded.set()

    def fail(self, error: BaseException) -> None:
        """The model could not be loaded; whoever waits for it is told."""
        self._failure = error
        self._loaded.set()

    def work(self) -> None:
        """Runs steps until `stop`, or until the engine's stream ends if the worker belongs to one engine."""
        self._main.work()

    def stop(self) -> None:
        """Ends `work`. Callable from any thread."""
        self._main.stop()

    def close(self) -> None:
        """Ends every call and gives the socket back. Closing twice is fine."""
        self._state = "closing"
        self._loaded.set()
        self._main.stop()
        self._server.stop(0.5).wait(5)
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _service(self) -> Any:
        def unary(call: Callable[[Any, Any], Any], request: str, reply: str) -> Any:
            return grpc.unary_unary_rpc_method_handler(
                _typed(call), MESSAGES[request].FromString, MESSAGES[reply].SerializeToString
            )

        def steps(requests: Iterator[Any], context: Any) -> Iterator[Any]:
            return self._stream_steps(requests, context)

        # grpcio looks for it; where it does not, the steps go to the main thread one by one.
        steps.experimental_thread_pool = self._main  # type: ignore[attr-defined]
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "Info": unary(self._info, "InfoRequest", "InfoReply"),
                "Health": unary(self._health, "HealthRequest", "HealthReply"),
                "Abort": unary(self._abort, "AbortRequest", "AbortReply"),
                "Warmup": unary(self._warmup, "WarmupRequest", "WarmupReply"),
                "Prefill": unary(self._prefill, "Step", "StepOutput"),
                "Decode": unary(self._decode, "Step", "StepOutput"),
                "FilterBatch": unary(self._filter_batch, "Step", "StepOutput"),
                "ClearCache": unary(self._clear_cache, "ClearCacheRequest", "ClearCacheReply"),
                "Forward": unary(self._forward, "ForwardRecord", "ForwardRecord"),
                # Its messages are read and written here, not by grpcio.
                "Steps": grpc.stream_stream_rpc_method_handler(steps),
            },
        )

    def _info(self, request: Any, context: Any) -> Any:
        protocol = _negotiate(request.oldest_protocol, request.newest_protocol, self._protocols)
        if request.wait_until_loaded:
            self._loaded.wait(_time_left(context))
        if self._failure is not None:
            raise self._failure
        return MESSAGES["InfoReply"](
            protocol=protocol,
            version=pillion.__version__,
            pid=os.getpid(),
            worker=self._worker,
            max_message_bytes=self._max_bytes,
            record_version=_step.VERSION,
        )

    def _health(self, _request: Any, _context: Any) -> Any:
        return MESSAGES["HealthReply"](state=_STATES[self._state], steps=self._steps, slots_in_use=len(self._slots))

    def _abort(self, _request: Any, _context: Any) -> Any:
        abort = getattr(self._handler, "abort", None)
        if abort is not None:
            abort()
        return MESSAGES["AbortReply"]()

    def _prefill(self, step: Any, context: Any) -> Any:
        if not step.new:
            raise PillionError("invalid_argument", "Prefill takes a step in which sequences enter", param="new")
        return self._unary_step(step, context)

    def _decode(self, step: Any, context: Any) -> Any:
        if step.new or not step.rows:
            raise PillionError("invalid_argument", "Decode takes a step with rows and no new sequence", param="rows")
        return self._unary_step(step, context)

    def _filter_batch(self, step: Any, context: Any) -> Any:
        if step.new or step.rows or not step.freed:
            raise PillionError("invalid_argument", "FilterBatch takes a step that only frees slots", param="freed")
        return self._unary_step(step, context)

    def _unary_step(self, step: Any, context: Any) -> Any:
        return self._alone(lambda: step_output_of_record(self._answer_step(step)), context)

    def _warmup(self, _request: Any, context: Any) -> Any:
        return MESSAGES["WarmupReply"](forward_ns=self._alone(self._warm_up, context))

    def _warm_up(self) -> int:
        if self._slots:
            raise PillionError("unsupported", "slots are in use", remedy="call ClearCache first")
        step, new = MESSAGES["Step"], MESSAGES["NewSequence"]
        row = struct.Struct("<4I")
        enters = new(prompt_len=1, top_p=1.0, max_len=2, repetition_penalty=1.0)
        steps = (
            step(new=[enters], prompts=bytes(4), rows=row.pack(0, 0, 1, _step.ROW_SAMPLE)),
            step(rows=row.pack(0, 1, 1, _step.ROW_SAMPLE)),
            step(freed=bytes(4)),
        )
        outputs = [step_output_of_record(self._answer_step(one)) for one in steps]
        for output in outputs:
            if output.error:
                data = json.loads(output.error)
                raise PillionError(data["code"], data["message"])
        return sum(output.forward_ns for output in outputs)

    def _clear_cache(self, _request: Any, context: Any) -> Any:
        return MESSAGES["ClearCacheReply"](freed=self._alone(self._free_slots, context))

    def _free_slots(self) -> int:
        slots = sorted(self._slots)
        for slot in slots:
            # One by one: a slot whose sequence never came to be must not keep the others.
            self._answer_step(MESSAGES["Step"](freed=struct.pack("<I", slot)))
        self._slots.clear()
        return len(slots)

    def _forward(self, request: Any, context: Any) -> Any:
        record = self._alone(lambda: self._step(request.record), context)
        if record[_KIND] == _FORWARD_OUTPUT:
            return MESSAGES["ForwardRecord"](record=record)
        # A handler that does not know the kind answers as to a step.
        data = json.loads(step_output_of_record(record).error)
        raise PillionError(data["code"], data["message"])

    def _run_call(self, call: StreamCall) -> None:
        """The stream, on the main thread."""
        with self._lock:
            self._stream = call
        try:
            call.run(self._reply_to, self._give_up)
        finally:
            call.over.set()
            if self._ends_with_stream:
                self._main.stop()

    def _give_up(self, error: Exception) -> tuple[Any, bytes]:
        log.error("the stream of steps is given up: %s", error)
        return _refusal(error)

    def _reply_to(self, message: bytes) -> bytes:
        """Runs the step that a message of the stream asks for, on this thread."""
        record = framed_record(message)
        is_typed = record is None
        if record is None:
            record = _record_of(message)
        # In the way of every step, in caches that gRPC has emptied: a call here costs microseconds.
        if record[_NUM_FREED] != _NONE or record[_NUM_NEW] != _NONE:
            self._note_slots(record)
        assert self._handler is not None
        try:
            answer = self._handler.step(record)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            answer = _failed(record, error)
        if len(answer) > self._max_bytes:
            answer = self._too_long(record, answer)
        self._steps += 1
        if is_typed:
            reply: bytes = _reply(step=step_output_of_record(answer)).SerializeToString()
            return reply
        return frame(len(answer)) + answer

    def _stream_steps(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """The stream, where it goes the public way."""
        end = _StreamEnd()
        over = end.over
        if not context.add_callback(over.set):
            return
        with self._lock:
            self._stream = end
        # The other side waits for it before it says that it is ready.
        context.send_initial_metadata(())
        reply_to = self._reply_to if self._main.is_here() else lambda message: self._main.run(self._reply_to, message)
        try:
            for message in requests:
                yield reply_to(message)
        except grpc.RpcError:
            # The engine has gone.
            return
        except PillionError as error:
            log.error("the stream of steps is given up: %s", error)
            _refuse(context, error)
        finally:
            over.set()
            if self._ends_with_stream:
                self._main.stop()

    def _alone(self, call: Callable[[], Any], context: Any) -> Any:
        """Runs a call between streams, since two who give steps would not know of each other's slots."""
        if self._handler is None:
            raise PillionError("worker_lost", "the model is still being loaded", remedy="call Info and let it wait")
        with self._lock:
            stream = self._stream
        if stream is not None and not _is_over(stream):
            raise PillionError(
                "bridge_unavailable",
                "the worker is driven by another engine",
                remedy="close that engine, or start another worker on a socket of its own",
            )
        return self._main.run(call, timeout=_time_left(context))

    def _answer_step(self, step: Any) -> bytes:
        return self._step(record_of_step(step))

    def _step(self, record: bytes) -> bytes:
        """Runs one record, on the main thread."""
        if record[_NUM_FREED] != _NONE or record[_NUM_NEW] != _NONE:
            self._note_slots(record)
        assert self._handler is not None
        try:
            answer = self._handler.step(record)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            # A model that raises the last two ends its rows, not the process.
            answer = _failed(record, error)
        self._steps += 1
        return answer if len(answer) <= self._max_bytes else self._too_long(record, answer)

    def _note_slots(self, record: bytes) -> None:
        """Keeps count for `ClearCache`. What cannot be read is the handler's to say."""
        with contextlib.suppress(PillionError):
            step = _step.decode_step(record)
            self._slots.difference_update(step.freed)
            self._slots.update(new.slot for new in step.new)

    def _too_long(self, record: bytes, answer: bytes) -> bytes:
        message = f"an answer of {len(answer)} bytes is longer than the {self._max_bytes} that a message takes"
        return _failed(record, UnsupportedError(message))


class _StreamEnd:
    """The end of a stream that goes the public way, which tells of it by itself."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def look(self) -> None:
        """Nothing to look for."""


class _MainThread(futures.ThreadPoolExecutor):
    """Runs what is submitted on the thread that calls `work`, one after the other."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self._jobs: queue.SimpleQueue[tuple[futures.Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: int | None = None
        self._is_over = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        future: futures.Future[Any] = futures.Future()
        self._jobs.put((future, lambda: fn(*args, **kwargs)))
        return future

    def start(self, call: Callable[..., Any], *args: Any) -> None:
        """Has the call run there in its turn; nobody waits for what comes of it."""
        self.submit(call, *args)

    def run(self, call: Callable[..., Any], *args: Any, timeout: float | None = None) -> Any:
        """Runs the call there, or here if this is that thread, and gives what it gives."""
        if self.is_here():
            return call(*args)
        future = self.submit(call, *args)
        try:
            return future.result(timeout)
        except futures.TimeoutError:
            future.cancel()
            raise

    def is_here(self) -> bool:
        """Whether the caller is on that thread."""
        return threading.get_ident() == self._thread

    def work(self) -> None:
        """Until `stop`."""
        self._thread = threading.get_ident()
        while not self._is_over and (job := self._jobs.get()) is not None:
            future, call = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)

    def stop(self) -> None:
        self._is_over = True
        self._jobs.put(None)


def _negotiate(oldest: int, newest: int, ours: tuple[int, int]) -> int:
    """The newest protocol version that both sides speak."""
    version = min(newest, ours[1])
    if version < max(oldest, ours[0]):
        raise PillionError(
            "version_mismatch",
            f"the engine speaks versions {oldest} to {newest} of the worker protocol, "
            f"this worker {ours[0]} to {ours[1]}",
            remedy="update the older of the two; each speaks the version before its own too",
        )
    return version


def _time_left(context: Any) -> float | None:
    """Seconds until the call's deadline, if it has one: without, grpcio may say a number that is none to wait for."""
    left: float | None = context.time_remaining()
    return None if left is None or left > threading.TIMEOUT_MAX else left


def _free(path: str) -> str:
    """The path, once it is sure that a socket can be made there and that nobody else can come to it."""
    size = len(os.fsencode(path))
    if size > _MAX_PATH:
        raise PillionError(
            "bridge_unavailable",
            f"the socket's path has {size} bytes, and {_MAX_PATH} are possible: {path}",
            remedy="choose a shorter path",
        )
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.stat(folder)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise PillionError(
            "bridge_unavailable",
            f"the socket's folder {folder} is open to others",
            remedy=f"use a folder of your own: mkdir -m 700 {folder}",
        )
    if os.path.lexists(path):
        _remove_dead(path)
    return path


def _remove_dead(path: str) -> None:
    """A socket that a killed worker has left is taken away; anything else stays."""
    if stat.S_ISSOCK(os.lstat(path).st_mode):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
                return
            except OSError:
                pass
    raise PillionError(
        "bridge_unavailable",
        f"the socket's path exists and is in use: {path}",
        remedy="end the worker that listens there, or choose another path",
    )


def _typed(call: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """What the call raises reaches the other side with its code."""

    def typed(request: Any, context: Any) -> Any:
        try:
            return call(request, context)
        except futures.TimeoutError:
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the main thread was busy until the deadline")
        except Exception as error:
            _refuse(context, error)

    return typed


def _refuse(context: Any, error: Exception) -> None:
    metadata, details = _refusal(error)
    context.set_trailing_metadata(metadata)
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, details.decode("ascii"))


def _refusal(error: Exception) -> tuple[Any, bytes]:
    """Trailing metadata and details of a status that says what went wrong."""
    data = json.loads(error_json(error, "load"))
    data["message"] = data["message"][:_MAX_QUOTED]
    data["python"]["traceback"] = data["python"]["traceback"][-_MAX_QUOTED:]
    if isinstance(error, PillionError):
        # It is no exception of the user's code.
        del data["python"]
    return ((ERROR_KEY, json.dumps(data).encode()),), data["message"].encode("ascii", "replace")


def _is_over(stream: StreamCall | _StreamEnd) -> bool:
    """Whether a stream has ended, or does so soon."""
    stream.look()
    if stream.over.wait(_STREAM_END):
        return True
    stream.look()
    return stream.over.is_set()


def _record_of(message: bytes) -> bytes:
    try:
        request = MESSAGES["StepsRequest"].FromString(message)
    except DecodeError as error:
        raise StepRecordError(f"a message of the stream cannot be read: {error}") from error
    if request.record:
        record: bytes = request.record
        return record
    if not request.HasField("step"):
        raise StepRecordError("a message of the stream has neither a step nor a record")
    return record_of_step(request.step)


def _failed(record: bytes, error: BaseException) -> bytes:
    return _forward.failed(record, error_json(error, "forward"))
