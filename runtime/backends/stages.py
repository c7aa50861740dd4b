"""Open every stage of a bundle on one backend: from its graphs, or for TensorRT from its engines."""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace

from textual_vision.runtime.backends.session import Session, SessionOptions, backend_by_name, open_session
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import UsageError

GRAPH_CACHE_VARIABLE = "TV_GRAPH_CACHE"
GRAPH_CACHE_SETTINGS = {"on": True, "": True, "off": False}

Key = tuple[int, str, str, SessionOptions, bool]


class OpenStages(dict[str, Session]):
    """Sessions by stage, which several models of one bundle share while one of them lives."""


_SHARED: weakref.WeakValueDictionary[Key, OpenStages] = weakref.WeakValueDictionary()
_LOCK = threading.Lock()


def _unlock_after_fork() -> None:
    """A thread of the parent may have held the lock; it does not live in the child."""
    global _LOCK
    _LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_after_fork)


def graph_cache_setting() -> bool:
    """Whether the environment allows the cache of optimized graphs; UsageError for an unknown value."""
    value = os.environ.get(GRAPH_CACHE_VARIABLE, "")
    if value not in GRAPH_CACHE_SETTINGS:
        raise UsageError(f"{GRAPH_CACHE_VARIABLE}={value[:40]!a}", "set it to on or off")
    return GRAPH_CACHE_SETTINGS[value]


def open_stages(
    bundle: Bundle,
    precision: str,
    backend: str,
    threads: int | None,
    *,
    graph_cache: bool = False,
    spinning: bool = True,
) -> Mapping[str, Session]:
    """Return each stage's session by the stage's name; they live as long as the mapping.

    A process opens the same graphs with the same options once for all its models. With `graph_cache`, graphs
    that were optimized for this processor are taken from the user's cache, or put there.

    Raises what `session.open_session` does, and for engines what `tensorrt.open_engines` does.
    """
    if backend_by_name(backend).engines:
        if threads is not None:
            raise UsageError(
                f"{threads} threads for {backend}", "leave out --threads: engines run on the GPU"
            )
        module = importlib.import_module(backend_by_name(backend).module)
        sessions: Mapping[str, Session] = module.open_engines(bundle, precision, backend)
        return sessions
    options = SessionOptions(backend=backend, name="", threads=threads, spinning=spinning)
    key = (os.getpid(), bundle.digest, precision, options, graph_cache)
    with _LOCK:  # two threads that load one bundle at once read it once
        shared = _SHARED.get(key)
        if shared is None:
            shared = _SHARED[key] = OpenStages(_opened_graphs(bundle, precision, options, graph_cache))
    return shared


def _opened_graphs(
    bundle: Bundle, precision: str, options: SessionOptions, graph_cache: bool
) -> Mapping[str, Session]:
    if graph_cache:
        from textual_vision.runtime.backends.optimized_stages import open_optimized_stages

        if (found := open_optimized_stages(bundle, precision, options)) is not None:
            return found
    files = bundle.manifest.precisions[precision].files
    return {
        stage.name: open_session(bundle.read(files[stage.name]), replace(options, name=files[stage.name]))
        for stage in bundle.manifest.stages
    }
