"""The C library's heap, set so that a process takes what it uses."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1  # of glibc's malloc.h
MAPPED_FROM = 4 * 1024**2  # bytes of a block from which on it is given back as soon as it is freed
KEPT = 16 * 1024**2  # free bytes at the end of the heap


def keep_heap_small() -> None:
    """Feature maps that are freed go back to the system at once; only glibc is asked, elsewhere nothing changes.

    Left alone, glibc keeps freed blocks of up to 32 MiB in a heap that falls to pieces: whole runs then take up to 20 %
    more than their tensors, and differently from one run to the next, so that a limit could not be kept. On a CPU it
    costs time, 19 % in the run that was measured (Docs/performance.md).
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, MAPPED_FROM), (_TRIM_THRESHOLD, KEPT)):
            mallopt(option, value)
