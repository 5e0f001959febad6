"""Lets the parent see at once that this process ends.

The end of a process that has loaded a model takes long: its memory is taken apart, for tenths of a second, before its
files are closed and its parent is told. But when a thread ends, Linux first goes through the list of locks that it held
("robust futexes"), marks each as orphaned and wakes whoever waits for it. So a thread here holds a lock that lies in
memory shared with the parent, and the parent waits for it. Where this cannot be done the parent learns later.
"""

from __future__ import annotations

import mmap
import os
import platform
import struct
import sys
import threading
from typing import Final

__all__ = ["WORD", "hold"]

WORD: Final = 0
"""Where in the page the lock's word is: the holder's thread id, and that somebody waits; 0 if nobody holds it."""

# The kernel's struct robust_list_head: the list's first member, the way from a member to its lock's word, what is being
# locked. And the only member.
_HEAD: Final = 64
_NODE: Final = 128
_WAITERS: Final = 0x8000_0000
_SET_ROBUST_LIST: Final = {"x86_64": 273, "aarch64": 99, "riscv64": 99}

# The kernel looks at these when the thread ends.
_held: list[object] = []


def hold(fd: int) -> bool:
    """Takes over a descriptor of a shared page, and holds the lock in it for as long as the calling thread lives."""
    try:
        page = mmap.mmap(fd, mmap.PAGESIZE)
    finally:
        os.close(fd)
    call = _SET_ROBUST_LIST.get(platform.machine())
    if sys.platform != "linux" or call is None or struct.calcsize("P") != 8:
        return False
    try:
        import ctypes
    except ImportError:
        # A Python that was built without libffi.
        return False
    first = ctypes.c_char.from_buffer(page)
    base = ctypes.addressof(first)
    struct.pack_into("<QqQ", page, _HEAD, base + _NODE, WORD - _NODE, 0)
    struct.pack_into("<Q", page, _NODE, base + _HEAD)
    size = struct.calcsize("<QqQ")
    # Before the word is set: it is to be seen only if it will be marked.
    if ctypes.CDLL(None).syscall(call, ctypes.c_void_p(base + _HEAD), ctypes.c_size_t(size)) != 0:
        return False
    _held.append((page, first))
    struct.pack_into("<I", page, WORD, threading.get_native_id() | _WAITERS)
    return True
