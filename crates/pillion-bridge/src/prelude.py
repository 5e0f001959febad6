"""What is done to an embedded interpreter once, before anything of the user's is imported."""

import os
import sys


def prepare(deepbind):
    flags = sys.getdlopenflags() if hasattr(sys, "getdlopenflags") else None
    # Only glibc has the flag. Node exports its own OpenSSL and zlib, and without it Python's modules would bind to those.
    if deepbind != "off" and flags is not None and hasattr(os, "RTLD_DEEPBIND"):
        sys.setdlopenflags(os.RTLD_NOW | os.RTLD_DEEPBIND)
        for name in ("_ssl", "_hashlib", "zlib"):
            try:
                __import__(name)
            except ImportError:
                pass  # not every build of Python has each of them
        # For everything else the flag does harm: under a preloaded allocator it mixes two of them.
        if deepbind != "all":
            sys.setdlopenflags(flags)

    # How long a busy Python thread keeps the GIL from a step that waits for it; the default is 5 ms.
    sys.setswitchinterval(0.0005)

    # There is no script, but libraries look at its name.
    sys.argv = [""]

    # A forked copy of a process with V8's threads in it may deadlock at any lock.
    import multiprocessing

    if multiprocessing.get_start_method(allow_none=True) is None:
        multiprocessing.set_start_method("spawn")


def import_package(sys_path, version):
    """None, or version and file of a package that is not the one wanted."""
    before = list(sys.path)
    sys.path[:] = [*sys_path, *(entry for entry in before if entry not in sys_path)]
    found = None
    try:
        import pillion

        found = str(getattr(pillion, "__version__", "unknown"))
        return None if found == version else (found, str(getattr(pillion, "__file__", None)))
    finally:
        if found != version:
            # So that a later attempt looks again.
            sys.path[:] = before
            for name in [name for name in sys.modules if name == "pillion" or name.startswith("pillion.")]:
                del sys.modules[name]
