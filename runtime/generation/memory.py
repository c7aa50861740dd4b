"""Memory that goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys


def return_memory() -> None:
    """Free what nothing refers to, and give free memory back to the system where its C library keeps it."""
    gc.collect()
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # musl has no malloc_trim, and keeps less
            ctypes.CDLL(None).malloc_trim(0)
