"""Open inference sessions of serialized graphs, several in parallel."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from textual_vision.export.graph.smoke_graph import smoke_graph
from textual_vision.runtime.backends.session import BACKENDS, Session, SessionOptions, open_session
from textual_vision.runtime.errors import BackendMissingError
from textual_vision.runtime.manifest import StageSpec


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
    """Open a session of every graph, by its stage's name; `threads` as in `SessionOptions`.

    The graphs are checked as those of a bundle: IntegrityError when a bundle may not hold one.
    """
    opened = _open_in_parallel(graphs.values(), [f"{stage}.onnx" for stage in graphs], backend, threads)
    return dict(zip(graphs, opened, strict=True))


def open_stage_sessions(
    graphs: Sequence[bytes], stage: StageSpec, backend: str, *, threads: int | None = None
) -> list[Session]:
    """Open a session of each of a stage's graphs that this process makes; `threads` as in `SessionOptions`.

    Graphs that are not rewritten yet may use operators that a bundle may not.
    """
    names = [f"{stage.name}.onnx"] * len(graphs)
    return _open_in_parallel(graphs, names, backend, threads, trusted=True)


@functools.cache
def initialize_backend(backend: str) -> None:
    """Open a tiny graph, once and before threads start: backends initialize global state on first use."""
    open_session(smoke_graph(), SessionOptions(backend=backend, name="tiny.onnx"))


def _open_in_parallel(
    graphs: Iterable[bytes],
    names: Sequence[str],
    backend: str,
    threads: int | None,
    *,
    trusted: bool = False,
) -> list[Session]:
    """Open a session of each graph. A backend uses one core to open one, so several are opened at a time."""
    initialize_backend(backend)

    def open_one(graph: bytes, name: str) -> Session:
        options = SessionOptions(backend=backend, name=name, threads=threads, trusted=trusted)
        return open_session(graph, options)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(open_one, graphs, names))
