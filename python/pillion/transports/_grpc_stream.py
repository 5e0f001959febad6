"""A stream of gRPC that is read and written by one thread.

grpcio's server has a thread that polls, and hands each message from it to the thread that works and back, by way of
Python's locks: for each step that is four changes of thread and as many fights for the GIL, which cost more than all
the rest of the step. Here a call has a completion queue of its own, on which the thread that works waits itself, and an
answer goes in one batch with the wish for the next message. The parts of grpcio that this takes are not public: where
they are not what they were, `OwnStream.create` gives `None`, and the stream goes the public way.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

__all__ = ["OwnStream", "StreamCall"]

# What these parts were looked at in.
_OLDEST: Final = (1, 66)
_NEWEST: Final = (1, 89)


class OwnStream:
    """Takes the calls of one method whose both sides are streams."""

    @classmethod
    def create(cls, server: Any, method: str, accept: Callable[[StreamCall], None]) -> OwnStream | None:
        """For a server that has not been started. `accept` gets each call, on grpcio's thread."""
        try:
            return cls(server, method, accept)
        except (AttributeError, ImportError, ValueError):
            return None

    def __init__(self, server: Any, method: str, accept: Callable[[StreamCall], None]) -> None:
        import grpc
        from grpc._cython import cygrpc

        version = tuple(int(part) for part in grpc.__version__.split(".")[:2])
        if not _OLDEST <= version <= _NEWEST:
            raise ValueError(version)
        self._method = method
        self._accept = accept
        self._core = server._cy_server
        self._notices = server._state.completion_queue
        self._operations = _Operations(cygrpc)
        self._request: Callable[..., Any] = self._core.request_registered_call
        # Last: it cannot be taken back.
        self._core.register_method(method)

    def start(self) -> None:
        """Once the server has been started."""
        queue = self._operations.new_queue()
        self._request(queue, self._notices, self._method, lambda event: self._on_call(event, queue))

    def _on_call(self, event: Any, queue: Any) -> tuple[None, tuple[()]]:
        """Called by grpcio. It is not to do anything with the call."""
        if event.success:
            self._accept(StreamCall(self._operations, queue, event.call))
            # A server that is being shut down takes no more.
            with contextlib.suppress(ValueError):
                self.start()
        return None, ()


class _Operations:
    """The parts of grpcio that are not public, all of them looked up before anything is done."""

    def __init__(self, cygrpc: Any) -> None:
        self.new_queue = cygrpc.CompletionQueue
        self.timeout = cygrpc.CompletionType.queue_timeout
        self.receive = cygrpc.ReceiveMessageOperation
        self.send = cygrpc.SendMessageOperation
        self.receive_close = cygrpc.ReceiveCloseOnServerOperation
        self.send_metadata = cygrpc.SendInitialMetadataOperation
        self.send_status = cygrpc.SendStatusFromServerOperation
        self.codes = cygrpc.StatusCode


class StreamCall:
    """One call, for the thread that runs it."""

    def __init__(self, operations: _Operations, queue: Any, call: Any) -> None:
        self.over = threading.Event()
        """The other side has ended the call or has gone; `look` may have to be called first."""
        self._operations = operations
        self._queue = queue
        self._start = call.start_server_batch
        self._polling = threading.Lock()
        self._kept: deque[Any] = deque()
        self._due = 0
        self._is_cancelled = False

    def run(self, answer: Callable[[bytes], bytes], refuse: Callable[[Exception], tuple[Any, bytes]]) -> None:
        """Answers each message until there are no more. What `answer` raises ends the call, with the trailing metadata
        and the details that `refuse` gives."""
        operations = self._operations
        send, receive = operations.send, operations.receive(0)
        # The other side waits for the metadata before it says that it is ready.
        self._begin((operations.receive_close(0),), "close")
        self._begin((operations.send_metadata((), 0), receive), "message")
        code, metadata, details = operations.codes.ok, (), b""
        try:
            while (message := self._message(receive)) is not None:
                # Both in one batch: one event for each step.
                self._begin((send(answer(message), 0), receive), "message")
        except Exception as error:
            code = operations.codes.failed_precondition
            metadata, details = refuse(error)
        finally:
            self.over.set()
        if not self._is_cancelled:
            self._begin((operations.send_status(metadata, code, details, 0),), "status")
        while self._due:
            self._take()

    def look(self) -> None:
        """For other threads: takes notice of the end of the call while the thread that runs it does something else."""
        if self._polling.acquire(blocking=False):
            try:
                event = self._queue.poll(time.time())
                if event.completion_type != self._operations.timeout:
                    self._notice(event)
                    self._kept.append(event)
            finally:
                self._polling.release()

    def _begin(self, batch: tuple[Any, ...], tag: str) -> None:
        self._due += 1
        self._start(batch, tag)

    def _message(self, receive: Any) -> bytes | None:
        while self._take() != "message":
            pass
        message: bytes | None = receive.message()
        return message

    def _take(self) -> str:
        with self._polling:
            event = self._kept.popleft() if self._kept else self._queue.poll()
        self._due -= 1
        tag: str = event.tag
        if tag != "message":
            self._notice(event)
        return tag

    def _notice(self, event: Any) -> None:
        if event.tag == "close":
            self._is_cancelled = bool(event.batch_operations[0].cancelled())
            self.over.set()
