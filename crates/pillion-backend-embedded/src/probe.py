# Run by `python -I -S -c`: says what this interpreter is, as one line of JSON. Must be readable by any Python 3, or "too old" could not be said.
import json
import os
import struct
import sys
import sysconfig

var = sysconfig.get_config_var
major, minor = sys.version_info[:2]
base_prefix = getattr(sys, "base_prefix", sys.prefix)
multiarch = var("MULTIARCH")
executable = sys.executable or ""


def libc():
    try:
        return "glibc" if os.confstr("CS_GNU_LIBC_VERSION") else None
    except (AttributeError, ValueError, OSError):
        return "musl" if "musl" in (multiarch or "") + (var("SOABI") or "") else None


def venv():
    # `-S` keeps `site` from setting `sys.prefix`.
    above = os.path.dirname(executable)
    for folder in (above, os.path.dirname(above)):
        if folder and os.path.isfile(os.path.join(folder, "pyvenv.cfg")):
            return folder
    return None


def libpython():
    name = "%d.%d%s" % (major, minor, getattr(sys, "abiflags", ""))
    if sys.platform == "win32":
        return [os.path.join(base_prefix, "python%d%d.dll" % (major, minor))]
    names = [var("INSTSONAME"), var("LDLIBRARY"), "libpython%s.so.1.0" % name, "libpython%s.so" % name]
    if sys.platform == "darwin":
        names[2:] = ["libpython%s.dylib" % name]
    libdir = var("LIBDIR")
    # A relocated installation still names the folder that it was built for, so its own `lib` is looked at too.
    folders = [libdir, os.path.join(base_prefix, "lib"), var("LIBPL"), var("PYTHONFRAMEWORKPREFIX")]
    if multiarch:
        folders += [os.path.join(folder, multiarch) for folder in folders[:2] if folder]
    paths = []
    for name in names:
        for folder in folders:
            if name and folder and not name.endswith(".a") and os.path.join(folder, name) not in paths:
                paths.append(os.path.join(folder, name))
    return paths


candidates = libpython()
print(
    "\npillion-probe:"
    + json.dumps(
        {
            "version": list(sys.version_info[:3]),
            "implementation": sys.implementation.name,
            "free_threaded": bool(var("Py_GIL_DISABLED")),
            "trace_refs": hasattr(sys, "getobjects"),
            "pointer_bits": struct.calcsize("P") * 8,
            "machine": os.uname().machine if hasattr(os, "uname") else os.environ.get("PROCESSOR_ARCHITECTURE", ""),
            "libc": libc(),
            "executable": executable,
            "base_executable": getattr(sys, "_base_executable", executable) or "",
            "prefix": venv() or sys.prefix,
            "base_prefix": base_prefix,
            "multiarch": multiarch or None,
            "libpython": [path for path in candidates if os.path.isfile(path)],
            "searched": candidates,
        }
    )
)
