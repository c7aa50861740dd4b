"""Run one of our modules in a fresh process and exchange pickled messages with it.

The messages travel through the worker's standard input and output. Libraries that print would corrupt them,
so the worker redirects its file descriptor 1 to a log, which also receives its standard error.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any

from textual_vision.runtime.errors import TextualVisionError

PARENT_LOOK_SECONDS = 0.25


class WorkerProcess:
    """A process that runs `python -m module`, which calls `run_worker`. Leaving the `with` block ends it.

    `name` says in errors which work failed, `hint` what to do then. On closing, the worker has
    `patience_seconds` to finish by itself; then it is killed.
    """

    def __init__(
        self, module: str, task: object, *, name: str, hint: str = "", patience_seconds: float = 0.0
    ) -> None:
        """Start the process and send it `task`."""
        self._name, self._hint, self._patience_seconds = name, hint, patience_seconds
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        self._messages: queue.Queue[Any] = queue.Queue()
        # A thread empties the pipe, so that the worker never waits for us to receive a large message.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.send(task)
        except BaseException:
            self.close()
            raise

    def send(self, message: object) -> None:
        """Send a message; when the worker has ended, the next `receive` raises why."""
        assert self._process.stdin is not None
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
        except (BrokenPipeError, ConnectionResetError):
            pass

    def receive(self) -> Any:
        """Wait for the worker's next message.

        Raises the worker's TextualVisionError as it was raised there, and a TextualVisionError with the last
        line of the log when the worker ended for another reason.
        """
        message = self._messages.get()
        if isinstance(message, _Ended):
            self._messages.put(message)  # a further call raises it again
            raise TextualVisionError(
                f"the worker process of {self._name} failed: {self._last_line()}", self._hint
            )
        if isinstance(message, TextualVisionError):
            raise message
        return message

    def close(self) -> None:
        """End the process; a second call does nothing."""
        if self._log.closed:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # an unsent message may still be in the buffer
            self._process.stdin.close()
        try:
            self._process.wait(self._patience_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(1.0)
        self._log.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            while not isinstance(message := _message_from(stream), _Ended):
                self._messages.put(message)
        self._messages.put(message)

    def _last_line(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {code}"


class _Ended:
    """In place of a message: the other side has closed the pipe."""


class Channel:
    """The worker's side: messages from and to the process that started it."""

    def __init__(self, source: IO[bytes], target: IO[bytes]) -> None:
        self._source, self._target = source, target

    def receive(self) -> Any:
        """Wait for the next message; raises EOFError when the other side has closed the pipe."""
        message = _message_from(self._source)
        if isinstance(message, _Ended):
            raise EOFError
        return message

    def send(self, message: object) -> None:
        """Send a message."""
        pickle.dump(message, self._target)
        self._target.flush()


def run_worker(work: Callable[[Any, Channel], None]) -> None:
    """Call `work(task, channel)` in the worker; a TextualVisionError becomes its last message.

    `work` may return when `channel.receive` raises EOFError, which also ends the worker quietly.
    """
    exit_with_parent(lambda: None)
    channel = Channel(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    try:
        work(channel.receive(), channel)
    except TextualVisionError as error:
        channel.send(error)
        sys.exit(error.exit_code)
    except (EOFError, BrokenPipeError):
        sys.exit(0)


def exit_with_parent(cleanup: Callable[[], None]) -> None:
    """From now on this process calls `cleanup` and ends as soon as the one that started it is gone.

    However that ended: after SIGKILL it could not end its worker itself.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_LOOK_SECONDS)
        cleanup()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _message_from(stream: IO[bytes]) -> Any:
    try:
        return pickle.load(stream)
    except (EOFError, OSError, pickle.UnpicklingError):  # the last: killed in the middle of a message
        return _Ended()
