"""Open inference sessions of serialized graphs, several in parallel."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from textual_vision.export.graph.smoke_graph import smoke_graph
from textual_vision.runtime.backends.session import BACKENDS, Session, SessionOptions, open_session
from textual_vision.runtime.errors import BackendMissingError, IntegrityError, TextualVisionError
from textual_vision.runtime.manifest import StageSpec

REPORT_HINT = "this is a bug in tv-export: report it with the output of `tv-export doctor --json`"


class UnloadableGraphError(TextualVisionError):
    """A backend does not load a graph that this build wrote."""


def usable_backends() -> tuple[str, ...]:
    """Return the installed backends that need no GPU; raise BackendMissingError when there is none."""
    found = tuple(
        name
        for name, (backend, by_default) in BACKENDS.items()
        if by_default and importlib.util.find_spec(backend.library) is not None
    )
    if not found:
        raise BackendMissingError(
            "no inference backend is installed to compare with", BACKENDS["onnxruntime"][0].install
        )
    return found


def open_sessions(
    graphs: Mapping[str, bytes], backend: str, *, threads: int | None = None
) -> dict[str, Session]:
    """Return a session of every graph, by its stage's name; `threads` as in `SessionOptions`.

    Raises UnloadableGraphError when the backend rejects a graph, or a bundle may not hold it.
    """
    named = [(graph, f"{stage}.onnx") for stage, graph in graphs.items()]
    return dict(zip(graphs, open_in_parallel(named, backend, threads=threads), strict=True))


def open_stage_sessions(
    graphs: Sequence[bytes], stage: StageSpec, backend: str, *, threads: int | None = None
) -> list[Session]:
    """Return a session of each of a stage's graphs, finished or not; `threads` as in `SessionOptions`.

    Raises UnloadableGraphError when the backend rejects a graph.
    """
    named = [(graph, f"{stage.name}.onnx") for graph in graphs]
    return open_in_parallel(named, backend, threads=threads, trusted=True)


def open_in_parallel(
    graphs: Sequence[tuple[bytes, str]], backend: str, *, threads: int | None = None, trusted: bool = False
) -> list[Session]:
    """Return a session of each (graph, file name), opened in parallel: a backend opens one on one core.

    `threads` and `trusted` as in `SessionOptions`. Raises UnloadableGraphError when the backend rejects one.
    """
    initialize_backend(backend)

    def opened(one: tuple[bytes, str]) -> Session:
        options = SessionOptions(backend=backend, name=one[1], threads=threads, trusted=trusted)
        return open_own_graph(one[0], options)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(opened, graphs))


def open_own_graph(graph: bytes, options: SessionOptions) -> Session:
    """Return a session of a graph that this build wrote; UnloadableGraphError when the backend rejects it."""
    try:
        return open_session(graph, options)
    except IntegrityError as error:
        raise UnloadableGraphError(error.message, REPORT_HINT) from None


@functools.cache
def initialize_backend(backend: str) -> None:
    """Open a tiny graph, once and before threads start: backends initialize global state on first use."""
    open_session(smoke_graph(), SessionOptions(backend=backend, name="tiny.onnx"))
