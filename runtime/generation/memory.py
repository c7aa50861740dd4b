"""Memory that goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from pathlib import Path


def return_memory() -> None:
    """Free what nothing refers to, and give free memory back to the system where its C library keeps it."""
    gc.collect()
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # musl has no malloc_trim, and keeps less
            ctypes.CDLL(None).malloc_trim(0)


def resident_bytes(pid: int | None = None) -> int | None:
    """The resident memory of a process, None being this one; None where the system does not tell."""
    try:
        text = Path(f"/proc/{'self' if pid is None else pid}/status").read_text()
    except OSError:
        return None
    lines = [line for line in text.splitlines() if line.startswith("VmRSS:")]
    return int(lines[0].split()[1]) << 10 if lines else None
