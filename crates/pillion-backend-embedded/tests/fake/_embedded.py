"""Keeps the contract of the real module without torch. The option `open` says what happens at load, `steps` what happens in which step."""

import json
import multiprocessing
import os
import struct
import sys
import threading
import weakref

from .errors import PillionError

live = weakref.WeakSet()
log = print


class Stream:
    def write(self, text):
        if text.strip():
            log(1, text)

    def flush(self):
        pass


def boot(config, log_function):
    global log
    log = log_function
    sys.stdout = sys.stderr = Stream()
    return json.dumps({"version": json.loads(config)["version"]})


def shutdown():
    import atexit

    atexit._run_exitfuncs()


def facts():
    return {
        "others": len(live) - 1,
        "executable": sys.executable,
        "prefix": sys.prefix,
        "encoding": sys.getfilesystemencoding(),
        "version": "%d.%d.%d" % sys.version_info[:3],
        "argv": sys.argv,
        "path": sys.path[0],
        "main_thread": threading.current_thread() is threading.main_thread(),
        "switch_interval": sys.getswitchinterval(),
        "start_method": multiprocessing.get_start_method(),
        "deepbind": bool(sys.getdlopenflags() & getattr(os, "RTLD_DEEPBIND", 0)) if os.name == "posix" else False,
        "omp": os.environ.get("OMP_NUM_THREADS"),
        "mkl": os.environ.get("MKL_NUM_THREADS"),
        "home": os.environ.get("PYTHONHOME"),
    }


def open(config, progress):
    config = json.loads(config)
    options = config["model"]["options"]
    progress(json.dumps({"stage": "weights", "done": 1, "total": 2}))
    action = options.get("open")
    if action == "raise":
        raise ValueError("the weights are the wrong shape")
    if action == "no_torch":
        import no_such_torch_anywhere
    if action == "torch":
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    if action == "own":
        raise PillionError("model_not_found", "no weights in /x", remedy="look elsewhere", param="model")
    if action == "own_code_unknown":
        raise PillionError("no_such_code", "odd")
    if action == "surrogate":
        raise RuntimeError("gr\u00fc\u00dfe \U0001f600 \udc80 end")
    if action == "exit":
        sys.exit(3)
    if action == "huge":
        raise RuntimeError("begin" + "x" * 10_000_000 + "finish")
    if action == "unprintable":

        class Unprintable(Exception):
            def __str__(self):
                raise ZeroDivisionError

        raise Unprintable()
    if action == "thread":
        worker = threading.Thread(target=lambda: (progress('{"stage": "check", "done": 3}'), print("from a thread")))
        worker.start()
        worker.join()
    if action == "late_progress":
        global late
        late = progress
    if action == "wait":
        print("waiting")
        with io_open(options["fifo"]) as fifo:
            fifo.read()
    if action == "atexit":
        import atexit

        atexit.register(lambda: io_open(options["file"], "w").write("ran"))
    handler = Handler(options)
    live.add(handler)
    return handler


io_open = __builtins__["open"]


class Handler:
    def __init__(self, options):
        self.options = options
        self.cycle = self  # freed by the garbage collector only

    def info(self):
        print("facts:" + json.dumps(facts()))
        model = {
            "name": "fake",
            "tasks": ["generate"],
            "maxContext": 8,
            "vocabSize": 9,
            "numSlots": 2,
            "kvTokens": 16,
            "eosTokenIds": [],
        }
        version = self.options.get("info_version") or json.loads('"@version@"')
        return json.dumps({"version": version, "stepVersion": 1, "pid": os.getpid(), "model": model})

    def step(self, record):
        assert type(record) is bytes
        step_id = struct.unpack_from("<Q", record, 16)[0]
        rows_at, rows = struct.unpack_from("<II", record, 32 + 8 * 5)
        slots = [struct.unpack_from("<I", record, rows_at + 16 * i)[0] for i in range(rows)]
        action = self.options.get("steps", {}).get(str(step_id))
        if action == "raise":
            raise KeyError("no such layer")
        if action == "exit":
            sys.exit(0)
        if action == "memory":
            raise MemoryError()
        if action == "interrupt":
            raise KeyboardInterrupt()
        if action == "deep":
            nested = []
            for _ in range(900):
                nested = [nested]
            assert len(repr(nested)) == 1802
            json.dumps(nested)
        if action == "text":
            return "no bytes"
        if action == "noise":
            return b"noise"
        if action == "other_id":
            step_id += 1
        if action == "wait":
            print("waiting")
            with io_open(self.options["fifo"]) as fifo:
                fifo.read()
        if action == "spin":
            print("spinning")
            while True:
                pass
        if action == "late_progress":
            late('{"stage": "late", "done": 1}')
        return output(step_id, [slot + 100 for slot in slots])

    def close(self):
        if self.options.get("close") == "raise":
            raise RuntimeError("cannot close")
        print("closed")


def output(step_id, tokens):
    at = 32 + 8 * 4
    end = at + 4 * len(tokens)
    head = struct.pack("<IHHIIQQ", 0x4E4C4C50, 1, 3, end, 4, step_id, 5)
    sections = struct.pack("<8I", at, len(tokens), end, 0, end, 0, end, 0)
    return head + sections + struct.pack("<%dI" % len(tokens), *tokens)
