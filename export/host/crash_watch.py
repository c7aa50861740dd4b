"""Say which graph a backend was working on when it ended the process.

A backend that crashes leaves no exception. A small process beside this one is told what is begun and what is
finished; when the pipe closes while something is unfinished, it says so on the standard error.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator

PROGRAM = """
import json, os, signal, sys
for one in ("SIGINT", "SIGTERM", "SIGHUP"):
    if hasattr(signal, one):
        signal.signal(getattr(signal, one), signal.SIG_IGN)
begun = {}
for line in sys.stdin:
    number, what = json.loads(line)
    if what is None:
        begun.pop(number, None)
    else:
        begun[number] = what
if begun:
    names = "; ".join(dict.fromkeys(begun.values()))
    sys.stderr.write("error: the process ended in a library's code: " + names + "\\n")
    sys.stderr.write("hint: report it, with the model's code and the output of `tv-export doctor --json`\\n")
"""


class CrashWatch:
    """The process beside, and what it is told. It ends with this one."""

    def __init__(self) -> None:
        # Not a line of our own is imported there, nor of site-packages: it starts in 20 ms.
        command = [sys.executable, "-I", "-S", "-c", PROGRAM]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self._lock, self._numbers = threading.Lock(), itertools.count()
        atexit.register(self._process.communicate)  # closes the pipe, and waits for it to end

    @contextlib.contextmanager
    def naming(self, what: str) -> Iterator[None]:
        """While it lasts, a crash is reported with `what`."""
        number = next(self._numbers)
        self._tell(number, what)
        try:
            yield
        finally:
            self._tell(number, None)

    def _tell(self, number: int, what: str | None) -> None:
        assert self._process.stdin is not None
        with self._lock, contextlib.suppress(OSError):  # the process beside may have been killed
            self._process.stdin.write(json.dumps([number, what]).encode() + b"\n")
            self._process.stdin.flush()


@functools.cache
def crash_watch() -> CrashWatch:
    """The one of this process."""
    return CrashWatch()
