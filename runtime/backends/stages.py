"""Open every stage of a bundle on one backend: from its graphs, or for TensorRT from its engines."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from textual_vision.runtime.backends.session import Session, SessionOptions, backend_by_name, open_session
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import UsageError


def open_stages(bundle: Bundle, precision: str, backend: str, threads: int | None) -> Mapping[str, Session]:
    """Return each stage's session by the stage's name; sessions live as long as the mapping.

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
    files = bundle.manifest.precisions[precision].files
    return {
        stage.name: open_session(
            bundle.read(files[stage.name]),
            SessionOptions(backend=backend, name=files[stage.name], threads=threads),
        )
        for stage in bundle.manifest.stages
    }
