"""Open every stage of a bundle on one backend: from its graphs, or for TensorRT from its engines."""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from collections.abc import Mapping

from textual_vision.runtime.backends.session import Session, SessionOptions, backend_by_name, open_session
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import UsageError

Key = tuple[int, str, str, str, int | None]


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


def open_stages(bundle: Bundle, precision: str, backend: str, threads: int | None) -> Mapping[str, Session]:
    """Return each stage's session by the stage's name; they live as long as the mapping.

    A process opens the same graphs with the same options once for all its models.

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
    key = (os.getpid(), bundle.digest, precision, backend, threads)
    with _LOCK:  # two threads that load one bundle at once read it once
        shared = _SHARED.get(key)
        if shared is None:
            shared = _SHARED[key] = _opened_graphs(bundle, precision, backend, threads)
    return shared


def _opened_graphs(bundle: Bundle, precision: str, backend: str, threads: int | None) -> OpenStages:
    files = bundle.manifest.precisions[precision].files
    return OpenStages(
        {
            stage.name: open_session(
                bundle.read(files[stage.name]),
                SessionOptions(backend=backend, name=files[stage.name], threads=threads),
            )
            for stage in bundle.manifest.stages
        }
    )
