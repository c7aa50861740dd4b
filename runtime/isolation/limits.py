"""What an isolated process may use, and how the process limits itself."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from textual_vision.runtime.errors import UsageError

FILES_LIMIT = 256
OOM_SCORE = Path("/proc/self/oom_score_adj")
OOM_SCORE_ADDED = 500  # of 1000: as if it took half of the memory more than it does
PARENT_POLL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class IsolationLimits:
    """`memory_bytes` of address space, and `seconds` of wall time for each request: loading, one stage's run.

    Raises UsageError when a limit is not positive.
    """

    memory_bytes: int = 4 << 30
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.memory_bytes <= 0 or not self.seconds > 0:
            problem = f"limits of {self.memory_bytes} bytes and {self.seconds} s"
            raise UsageError(problem, "both must be positive")


def check_platform() -> None:
    """UsageError where the system cannot limit a process's memory."""
    if not sys.platform.startswith("linux"):
        problem = f"isolated generation needs Linux, this is {sys.platform}"
        raise UsageError(problem, "load a bundle that you trust with isolated=False (--no-isolated)")


def limit_this_process(memory_bytes: int) -> None:
    """Limit this process's memory; it can write no file, and ends when its parent does.

    Where the machine's memory is short, Linux ends this process rather than its parent.
    """
    import resource

    with contextlib.suppress(OSError):  # a system without /proc
        OOM_SCORE.write_text(str(OOM_SCORE_ADDED))
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: FILES_LIMIT,
    }
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (allowed, allowed))
    parent = os.getppid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os._exit(1)
