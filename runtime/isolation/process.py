"""The parent's side of an isolated process: a tokenizer and sessions that work in the child."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from textual_vision.runtime import errors
from textual_vision.runtime.backends.session import Array, backend_by_name
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import IntegrityError, TextualVisionError, UsageError, shortened
from textual_vision.runtime.isolation.limits import IsolationLimits, check_platform
from textual_vision.runtime.isolation.messages import (
    JSON_LIMIT_BYTES,
    Connection,
    ConnectionClosedError,
    Message,
)
from textual_vision.runtime.strict_json import dataclass_from_json
from textual_vision.runtime.text.tokenizer import PromptNote, PromptPieces, Tokens, check_length

# Without the working folder on the path: what was downloaded there must not be imported.
CHILD = """import sys
sys.path[:] = [folder for folder in sys.path if folder]
from textual_vision.runtime.isolation.child import main
main()"""
ISOLATED_BACKENDS = ("onnxruntime", "openvino", "openvino-bf16")  # a GPU's driver needs all address space
END_SECONDS = 2.0
ESCAPE_BYTES = 12  # of a character in JSON, at most
# Without, the address space that threads reserve grows with the number of cores, to more than the limit.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "4", "OPENBLAS_NUM_THREADS": "1"}
LIMITS_HINT = "the bundle may be damaged or hostile; if you trust it, give it larger limits"


class IsolatedProcess:
    """A child process with a loaded bundle. One request at a time; threads wait for each other."""

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        backend: str,
        threads: int | None,
        limits: IsolationLimits,
    ) -> None:
        """Start the child and load the bundle there.

        Raises UsageError where the system or the backend cannot be isolated, IntegrityError when the child
        exceeds its limits or crashes, and what loading the bundle raises.
        """
        check_platform()
        backend_by_name(backend)
        if backend not in ISOLATED_BACKENDS:
            problem = f"backend {backend!r} cannot be isolated"
            hint = "trust the bundle (isolated=False, --no-isolated), or use onnxruntime or openvino"
            raise UsageError(problem, hint)
        self._limits = limits
        self._lock = threading.Lock()
        self._process, self._connection = _started(self._limits)
        # A model that is dropped without being closed leaves no process behind either.
        self._end = weakref.finalize(self, _ended, self._process, self._connection)
        try:
            self._open(bundle, {"precision": precision, "backend": backend, "threads": threads})
        except BaseException:
            self.close()
            raise

    def _open(self, bundle: Bundle, options: Mapping[str, Any]) -> None:
        values = {"bundle": str(bundle.root.resolve()), "digest": bundle.digest, **options}
        answer = self.request(Message(values=values), "loading the bundle")
        described = answer.values.get("stages", {})
        self.sessions = {name: IsolatedSession(self, name, about) for name, about in described.items()}
        self.tokenizer = IsolatedTokenizer(self)

    @property
    def process_id(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._process.poll() is None

    def request(self, message: Message, what: str) -> Message:
        """The child's answer; `what` says in errors what it was at.

        Raises the child's own error, IntegrityError when it crashes, exceeds its limits or answers nonsense.
        """
        with self._lock:
            if self._process.returncode is not None:
                raise TextualVisionError("the isolated process has ended", "load the bundle again")
            deadline = time.monotonic() + self._limits.seconds
            try:
                self._connection.send(message, deadline)
                answer = self._connection.receive(deadline)
            except TimeoutError:
                self._end()
                problem = f"{what} took the isolated process more than {self._limits.seconds:g} s"
                raise IntegrityError(problem, LIMITS_HINT) from None
            except ConnectionClosedError:
                raise IntegrityError(f"{what}: {self._ending()}", LIMITS_HINT) from None
            except BaseException:  # an interrupt, or nonsense: what comes next could be the rest of it
                self._end()
                raise
        if "error" in answer.values:
            raise _error_of(answer, what)
        return answer

    def _ending(self) -> str:
        """How the child ended, in words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self._end()
        code = self._process.returncode
        if code >= 0:
            return f"the isolated process ended with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        memory = f"{self._limits.memory_bytes / 2**20:.0f} MiB"
        return f"the isolated process was ended by {name}; its memory is limited to {memory}"

    def close(self) -> None:
        """End the child; closing twice is fine."""
        with self._lock:
            self._end()


def _ended(process: subprocess.Popen[bytes], connection: Connection) -> None:
    connection.close()
    process.kill()
    process.wait()


def _started(limits: IsolationLimits) -> tuple[subprocess.Popen[bytes], Connection]:
    ours, theirs = socket.socketpair()
    with theirs:
        descriptor = theirs.fileno()
        command = [sys.executable, "-c", CHILD, str(descriptor), str(limits.memory_bytes)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[descriptor],
            env={**os.environ, **ENVIRONMENT},
        )
    return process, Connection(ours, limits.memory_bytes)


def _error_of(answer: Message, what: str) -> Exception:
    """The child's error as an exception of this process."""
    values = answer.values
    kind = getattr(errors, str(values["error"]), None)
    message = shortened(str(values.get("message", "")))
    if isinstance(kind, type) and issubclass(kind, TextualVisionError):
        return kind(message, shortened(str(values.get("hint", ""))))
    return IntegrityError(f"{what} failed in the isolated process: {message}", LIMITS_HINT)


class IsolatedSession:
    """A stage's session that works in the child."""

    def __init__(self, process: IsolatedProcess, stage: str, about: Any) -> None:
        self._process, self._stage = process, stage
        self.inputs = frozenset(map(str, about["inputs"]))
        self.outputs = frozenset(map(str, about["outputs"]))
        largest = about["largest_batch"]
        self.largest_batch = largest if isinstance(largest, int) and largest > 0 else None
        self.providers = tuple(map(str, about["providers"]))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name; see `IsolatedProcess.request` for the errors."""
        request = Message(values={"stage": self._stage}, arrays=inputs)
        answer = self._process.request(request, f"stage {self._stage!r}")
        if set(answer.arrays) != self.outputs:
            raise IntegrityError(f"stage {self._stage!r} gave other tensors than it has", LIMITS_HINT)
        return dict(answer.arrays)


class IsolatedTokenizer:
    """A tokenizer that works in the child."""

    def __init__(self, process: IsolatedProcess) -> None:
        self._process = process

    def encode_batches(self, prompts: Sequence[str], size: int) -> list[Tokens]:
        """See `Tokenizer.encode_batches`; also UsageError for prompts that do not fit in one message."""
        _check_lengths(prompts)
        request = Message(values={"prompts": list(prompts), "size": size})
        answer = self._process.request(request, "reading the prompts")
        return list(_batches(answer, prompts, size))

    def pieces(self, prompt: str) -> PromptPieces:
        """See `Tokenizer.pieces`."""
        check_length(prompt)
        answer = self._process.request(Message(values={"pieces": prompt}), "reading the prompt")
        return dataclass_from_json(PromptPieces, answer.values.get("found"), "pieces")


def _check_lengths(prompts: Sequence[str]) -> None:
    for prompt in prompts:
        check_length(prompt)
    total = sum(len(prompt) for prompt in prompts)
    if total * ESCAPE_BYTES > JSON_LIMIT_BYTES // 2:
        problem = f"{len(prompts)} prompts of {total} characters together"
        raise UsageError(problem, "give fewer at once: an isolated process reads them in one message")


def _batches(answer: Message, prompts: Sequence[str], size: int) -> Iterator[Tokens]:
    notes = answer.values.get("notes")
    starts = range(0, len(prompts), size)
    if not isinstance(notes, list) or len(notes) != len(starts):
        raise IntegrityError("the isolated process gave other batches than prompts", LIMITS_HINT)
    for place, start in enumerate(starts):
        count = len(prompts[start : start + size])
        ids, mask = (answer.arrays.get(f"{name}{place}") for name in ("ids", "mask"))
        read = tuple(dataclass_from_json(PromptNote, one, "note") for one in notes[place])
        if ids is None or mask is None or ids.dtype != "int64" or ids.shape != mask.shape:
            raise IntegrityError("the isolated process gave no tokens", LIMITS_HINT)
        if mask.dtype != "int64" or ids.ndim != 2 or not count == len(ids) == len(read):
            raise IntegrityError("the isolated process gave other tokens than prompts", LIMITS_HINT)
        yield Tokens(ids=ids.astype("int64"), mask=mask.astype("int64"), notes=read)
