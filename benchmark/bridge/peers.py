"""What a step costs without pillion: the same 32 rows in one plain call, and the bare loop of a busy model.

    peers.py unary CALLS WARM-UP     a unary call of grpcio, client and server in Python, over a Unix socket
    peers.py json CALLS WARM-UP      a line of JSON each way over a Unix socket, client and server in Python
    peers.py bare STEPS MS           the busy model called directly

Waits for a line on standard input before each measurement, and answers it with a line of JSON: the nanoseconds of each
call, or of all steps.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent import futures

ROWS = [[slot, 100, 1, 1] for slot in range(32)]


def unary(folder: str) -> Callable[[], object]:
    import grpc

    path = f"unix:{folder}/socket"
    reply = bytes(4 * len(ROWS))
    pid = os.fork()
    if pid == 0:
        handler = grpc.unary_unary_rpc_method_handler(lambda request, _: reply if len(request) == 512 else b"")
        server = grpc.server(futures.ThreadPoolExecutor(1))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Peer", {"Step": handler}),))
        server.add_insecure_port(path)
        server.start()
        end_with_parent()
    channel = grpc.insecure_channel(path)
    grpc.channel_ready_future(channel).result(60)
    call = channel.unary_unary("/Peer/Step")
    request = b"".join(word.to_bytes(4, "little") for row in ROWS for word in row)
    return lambda: call(request)


def over_json(folder: str) -> Callable[[], object]:
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        lines = theirs.makefile("rwb")
        for line in lines:
            step = json.loads(line)
            answer = {"id": step["id"], "tokens": [row[0] for row in step["rows"]]}
            lines.write(json.dumps(answer).encode() + b"\n")
            lines.flush()
        os._exit(0)
    theirs.close()
    lines = ours.makefile("rwb")
    count = 0

    def call() -> object:
        nonlocal count
        count += 1
        lines.write(json.dumps({"id": count, "rows": ROWS}).encode() + b"\n")
        lines.flush()
        return json.loads(lines.readline())["tokens"]

    return call


def end_with_parent() -> None:
    """Waits until the parent has gone."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(0)


def time_calls(call: Callable[[], object], calls: int) -> list[int]:
    times = []
    now = time.perf_counter_ns
    for _ in range(calls):
        begin = now()
        call()
        times.append(now() - begin)
    return times


def main() -> None:
    what, count, more = sys.argv[1:4]
    calls = int(count)
    if what == "bare":
        sys.path[:0] = [os.path.join(os.path.dirname(__file__), "../../python")]
        from stub import busy

        nanoseconds = int(float(more) * 1e6)

        def measure() -> object:
            begin = time.perf_counter_ns()
            for _ in range(calls):
                busy(nanoseconds)
            return time.perf_counter_ns() - begin

        serve(measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        call = (unary if what == "unary" else over_json)(folder)
        time_calls(call, int(more))
        serve(lambda: time_calls(call, calls))


def serve(measure: Callable[[], object]) -> None:
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure()), flush=True)


if __name__ == "__main__":
    main()
