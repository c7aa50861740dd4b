"""The isolated process: loads a bundle and answers requests until its parent closes the connection.

`process` starts it with two arguments: its socket's descriptor, and the bytes of memory that it may use.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict

from textual_vision.runtime.backends.session import Session
from textual_vision.runtime.backends.stages import open_stages
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import IntegrityError, TextualVisionError, shortened
from textual_vision.runtime.isolation.limits import limit_this_process
from textual_vision.runtime.isolation.messages import Connection, ConnectionClosedError, Message
from textual_vision.runtime.text.tokenizer import Tokenizer


class Worker:
    """A loaded bundle: its tokenizer and its stages' sessions."""

    def __init__(self, request: Message) -> None:
        """Load what the parent asks for; IntegrityError when the bundle has changed meanwhile."""
        values = request.values
        bundle = Bundle(values["bundle"])
        if bundle.digest != values["digest"]:
            raise IntegrityError("the bundle changed while it was loaded", "load it again")
        manifest = bundle.manifest
        text = manifest.text
        self._tokenizer = None if text is None else Tokenizer(bundle.read(text.tokenizer), text)
        self._sessions: Mapping[str, Session] = open_stages(
            bundle, values["precision"], values["backend"], values["threads"]
        )

    def describe(self) -> Message:
        """The names and limits of each stage's session."""
        stages = {
            name: {
                "inputs": sorted(session.inputs),
                "outputs": sorted(session.outputs),
                "largest_batch": session.largest_batch,
                "providers": list(getattr(session, "providers", ())),
            }
            for name, session in self._sessions.items()
        }
        return Message(values={"stages": stages})

    def answer(self, request: Message) -> Message:
        """Run a stage, or read prompts into token ids."""
        if "stage" in request.values:
            return Message(arrays=self._sessions[request.values["stage"]].run(request.arrays))
        if self._tokenizer is None:
            raise IntegrityError("the bundle has no tokenizer", "load it again")
        if "pieces" in request.values:
            return Message(values={"found": asdict(self._tokenizer.pieces(request.values["pieces"]))})
        batches = self._tokenizer.encode_batches(request.values["prompts"], request.values["size"])
        arrays = {f"ids{place}": batch.ids for place, batch in enumerate(batches)}
        arrays |= {f"mask{place}": batch.mask for place, batch in enumerate(batches)}
        return Message(
            values={"notes": [[asdict(n) for n in batch.notes] for batch in batches]}, arrays=arrays
        )


def main() -> None:
    """Serve one parent."""
    descriptor, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
    limit_this_process(memory_bytes)
    warnings.simplefilter("ignore")  # the parent warns
    with open(os.devnull, "r+b") as nowhere:  # noqa: PTH123 - what libraries print belongs to nobody
        for stream in (0, 1, 2):
            os.dup2(nowhere.fileno(), stream)
    connection = Connection(socket.socket(fileno=descriptor), memory_bytes)
    with contextlib.suppress(ConnectionClosedError):
        worker = _opened(connection)
        while worker is not None:
            _answer(connection, worker, connection.receive())


def _opened(connection: Connection) -> Worker | None:
    request = connection.receive()
    try:
        worker = Worker(request)
        connection.send(worker.describe())
    except Exception as error:  # noqa: BLE001 - the parent raises it
        connection.send(_failure(error))
        return None
    return worker


def _answer(connection: Connection, worker: Worker, request: Message) -> None:
    try:
        answer = worker.answer(request)
    except Exception as error:  # noqa: BLE001 - the parent raises it
        answer = _failure(error)
    connection.send(answer)


def _failure(error: Exception) -> Message:
    if isinstance(error, TextualVisionError):
        return Message(values={"error": type(error).__name__, "message": error.message, "hint": error.hint})
    kind = "MemoryError" if isinstance(error, MemoryError) else "Exception"
    return Message(values={"error": kind, "message": shortened(f"{error!r}"), "hint": ""})
