"""Open sessions of a build's graphs."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from textual_vision.export.graph.smoke_graph import smoke_graph
from textual_vision.export.host.crash_watch import crash_watch
from textual_vision.runtime.backends.session import BACKENDS, Session, SessionOptions, open_session
from textual_vision.runtime.errors import BackendMissingError
from textual_vision.runtime.manifest import StageSpec


def usable_backends() -> tuple[str, ...]:
    """The backends that work without a GPU and are installed; BackendMissingError when there is none."""
    found = tuple(
        name
        for name, (backend, by_default) in BACKENDS.items()
        if by_default and importlib.util.find_spec(backend.library) is not None
    )
    if not found:
        raise BackendMissingError(
            "no backend is installed to compare with", BACKENDS["onnxruntime"][0].install
        )
    return found


def open_stage_sessions(
    graphs: Sequence[bytes], stage: StageSpec, backend: str, *, threads: int | None = None
) -> list[Session]:
    """A session of each of a stage's graphs; `threads` as in `SessionOptions`."""
    return open_in_parallel([(graph, f"{stage.name}.onnx") for graph in graphs], backend, threads=threads)


def open_in_parallel(
    graphs: Sequence[tuple[bytes, str]], backend: str, *, threads: int | None = None, trusted: bool = True
) -> list[Session]:
    """A session of each graph and name of its file, opened side by side: a backend opens one on one core.

    `trusted` as in `SessionOptions`: graphs of a build are this process's own. When a backend crashes, the
    graph is named on the standard error.
    """
    initialize_backend(backend)

    def opened(one: tuple[bytes, str]) -> Session:
        options = SessionOptions(backend=backend, name=one[1], threads=threads, trusted=trusted)
        with crash_watch().naming(f"{backend} was opening {one[1]}"):
            return open_session(one[0], options)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(opened, graphs))


@functools.cache
def initialize_backend(backend: str) -> None:
    """Once, alone and in this thread: a backend may do something for good when it begins."""
    open_session(smoke_graph(), SessionOptions(backend=backend, name="tiny.onnx"))
