"""`python -m pillion.worker`: a worker that is started by hand, waits for an engine, and outlives it.

The model is loaded once. An engine attaches to the socket, and when it has gone the next one attaches, with every slot
free and the weights where they are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final

import pillion
from pillion import _serve
from pillion._config import ClassModel, LoadConfig, LoadLimits, PretrainedModel, Progress
from pillion.errors import PillionError

__all__ = ["detach", "main", "run", "socket_path"]

log = logging.getLogger("pillion")

_LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def main(arguments: Sequence[str] | None = None) -> None:
    """Ends with 0 when it was asked to end, with 1 if it could not begin."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    try:
        from pillion.worker import Handler

        run(options.listen, options.max_record_bytes, _config(options), Handler)
    except PillionError as error:
        hint = f"\nhint: {error.remedy}" if error.remedy else ""
        print(f"{error.code}: {error.message}{hint}", file=sys.stderr)
        _serve._leave(1)
    _serve._leave(0)


def detach(address: str, max_record_bytes: str, config: str) -> None:
    """A worker that an engine starts to outlive it: leaves the engine's session, prints its process id, and goes on
    without a parent. What it writes goes to a file beside the socket."""
    from pillion.worker import Handler

    # Both before the fork: what is wrong with them is then told to the engine.
    log_path = socket_path(address) + ".log"
    load = LoadConfig.from_json(config)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    os.makedirs(os.path.dirname(log_path), mode=0o700, exist_ok=True)
    log_fd = os.open(log_path, flags, 0o600)
    child = os.fork()
    if child:
        print(child, flush=True)
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log_fd, 1), (log_fd, 2)):
        os.dup2(source, target)
    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    told = False

    def tell(error: BaseException) -> None:
        nonlocal told
        told = True
        log.error("the worker could not begin", exc_info=error)

    try:
        run(address, int(max_record_bytes), load, Handler, tell)
    except BaseException as error:
        if not told:
            tell(error)
        _serve._leave(1)
    _serve._leave(0)


def run(
    address: str,
    max_record_bytes: int,
    config: LoadConfig,
    open_handler: Callable[[LoadConfig, Progress], _serve.StepHandler],
    tell: Callable[[BaseException], None] | None = None,
) -> None:
    """Listens, loads, and runs steps until SIGTERM or SIGINT. Raises `PillionError` if it cannot; `tell` gets why the
    model cannot be loaded while the socket is still there, since whoever loses the connection looks for the reason."""
    # Only now: it may be missing, and nothing of it may be there before a fork.
    from pillion.transports._grpc import GrpcServer

    _serve._prepare_process()
    signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    server = GrpcServer(socket_path(address), max_record_bytes)
    try:
        handler = open_handler(config, _log_progress)
    except BaseException as error:
        if tell is not None:
            tell(error)
        server.fail(error)
        server.close()
        raise
    log.info("process %d listens on %s", os.getpid(), address)
    _serve.serve_grpc(server, handler)


def socket_path(address: str) -> str:
    """The path in `unix:/path`."""
    scheme, _, path = address.partition(":")
    if scheme != "unix" or not path.startswith("/"):
        raise PillionError(
            "invalid_argument", f"the address must be unix: and an absolute path, got {address!r}", param="listen"
        )
    return path


def _log_progress(stage: str, done: float, total: float | None) -> None:
    if total is not None and done >= total:
        log.info("%s: done", stage)


def _config(options: argparse.Namespace) -> LoadConfig:
    return LoadConfig(
        model=_model(options),
        device=options.device,
        dtype=options.dtype,
        num_threads=options.num_threads,
        limits=LoadLimits(
            max_context=options.max_context,
            max_batch_tokens=options.max_batch_tokens,
            max_running=options.max_running,
            kv_cache_bytes=options.kv_cache_bytes,
        ),
    )


def _model(options: argparse.Namespace) -> PretrainedModel | ClassModel:
    if options.spec is not None:
        return ClassModel(options.spec, options.options)
    return PretrainedModel(os.path.abspath(options.model), options.trust_remote_code)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pillion.worker",
        description="Loads a model and waits on a socket for the engine that drives it: "
        "Engine.load({ model, bridge: 'grpc', workers: ['unix:/path'] }).",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    defaults = LoadLimits()
    parser.add_argument("--listen", required=True, metavar="unix:/PATH", help="a socket in a folder of mode 0700")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", metavar="DIR", help="a folder with config.json and safetensors")
    what.add_argument("--class", dest="spec", metavar="FILE:NAME", help="a class with load and forward, for predict")
    parser.add_argument("--options", type=_json, metavar="JSON", help="what the class finds as context.options")
    parser.add_argument("--device", help="a torch device; default: the best there is")
    parser.add_argument("--dtype", help="a torch dtype; default: the one that is fast on the device")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code in the model's folder")
    for name, default, text in (
        ("--num-threads", cores, "threads of one torch operation"),
        ("--max-running", defaults.max_running, "sequences that hold a slot at once"),
        ("--max-batch-tokens", defaults.max_batch_tokens, "tokens that one step may compute"),
        ("--max-context", None, "tokens of prompt and answer; default: the model's own"),
        ("--kv-cache-bytes", None, "default: a quarter of the free memory"),
        ("--max-record-bytes", 16 << 20, "bytes of one step's message"),
    ):
        parser.add_argument(name, type=_positive, default=default, metavar="N", help=text)
    parser.add_argument("--version", action="version", version=f"pillion {pillion.__version__}")
    return parser.parse_args(arguments)


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"JSON is expected, got {text!r}: {error}") from None


def _positive(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (value := int(text)) >= 1:
            return value
    raise argparse.ArgumentTypeError(f"an integer of at least 1 is expected, got {text!r}")
