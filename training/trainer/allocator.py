"""Keep freed memory: without this, glibc gives every large tensor back to the kernel.

A step of the emoji-64 codebook on one CPU thread spent 27 % of its time in the kernel, faulting the
same pages in again; with it 2 %.
"""

from __future__ import annotations

import ctypes
import platform

# From malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER = 2**31 - 1  # bytes; the parameter is a C int
TOP_PAD_BYTES = 256 * 2**20


def keep_freed_memory() -> bool:
    """Tells glibc to keep what is freed; False where the allocator is another one, which is fine too."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, TOP_PAD_BYTES))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
