"""The bundle under verification: its graphs, its sessions by precision and backend, and its checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from textual_vision.export.host.parallel import parallel_map
from textual_vision.export.precision.arithmetic import arithmetic_of
from textual_vision.export.results import MERGED
from textual_vision.runtime.backends.session import Session, SessionOptions, backend_by_name, open_session
from textual_vision.runtime.backends.stages import open_stages
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.generation.consistency import check_names
from textual_vision.runtime.generation.program import Program, program_from_manifest
from textual_vision.runtime.manifest import Manifest, StageSpec

if TYPE_CHECKING:
    from textual_vision.export.model.stage import StagedModel


class Subject:
    """A bundle with what its checks share; `model` is the checkpoint, None without one."""

    def __init__(self, bundle: Bundle, model: StagedModel | None, *, threads: int) -> None:
        self.bundle, self.model, self._threads = bundle, model, threads
        self._graphs: dict[tuple[str, str], bytes] = {}
        self._sessions: dict[tuple[str, str], Session] = {}
        self._arithmetic: dict[bytes, str] = {}

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @cached_property
    def program(self) -> Program:
        """How the bundle's stages run."""
        return program_from_manifest(self.manifest)

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """The stages in running order."""
        return self.manifest.stages

    def graph(self, precision: str, stage: str) -> bytes:
        """Return a serialized graph; raises IntegrityError when its digest is wrong."""
        key = precision, stage
        if key not in self._graphs:
            self._graphs[key] = self.bundle.read(self.manifest.precisions[precision].files[stage])
        return self._graphs[key]

    def has_merged(self, precision: str) -> bool:
        """Whether the precision has pipeline.onnx."""
        return self.manifest.merged is not None and MERGED in self.manifest.precisions[precision].files

    def arithmetic(self, precision: str, stage: str) -> str:
        """Return the arithmetic of a stage, one of `arithmetic.ARITHMETICS`."""
        graph = self.graph(precision, stage)
        key = hashlib.sha256(graph).digest()
        if key not in self._arithmetic:
            self._arithmetic[key] = arithmetic_of(graph)
        return self._arithmetic[key]

    def sessions(self, precision: str, backend: str) -> Mapping[str, Session]:
        """Return a session of every stage. Graph sessions stay open, engines live with the mapping.

        Raises TextualVisionError when the backend cannot open them.
        """
        names = [stage.name for stage in self.stages]
        if backend_by_name(backend).engines:
            return open_stages(self.bundle, precision, backend, None)
        return self._opened(precision, backend, names)

    def merged_session(self, precision: str, backend: str) -> Session | None:
        """Return the session of pipeline.onnx; None where the precision or the backend has none."""
        if backend_by_name(backend).engines or not self.has_merged(precision):
            return None
        return self._opened(precision, backend, [MERGED])[MERGED]

    def close(self, precision: str, backend: str) -> None:
        """Forget the sessions of a precision on a backend."""
        for stage in (*(one.name for one in self.stages), MERGED):
            self._sessions.pop((f"{precision}/{stage}", backend), None)

    def _opened(self, precision: str, backend: str, names: list[str]) -> dict[str, Session]:
        missing = [name for name in names if (f"{precision}/{name}", backend) not in self._sessions]
        files = self.manifest.precisions[precision].files

        def opened(name: str) -> Session:
            options = SessionOptions(backend=backend, name=files[name], threads=self._threads)
            return open_session(self.graph(precision, name), options)

        # Backends initialize global state on first use, so the first session is opened alone.
        sessions = [opened(name) for name in missing[:1]] + list(parallel_map(opened, missing[1:]))
        for name, session in zip(missing, sessions, strict=True):
            check_names(self._spec(name), session, files[name])
            self._sessions[f"{precision}/{name}", backend] = session
        return {name: self._sessions[f"{precision}/{name}", backend] for name in names}

    def _spec(self, name: str) -> StageSpec:
        merged = self.manifest.merged
        known = {stage.name: stage for stage in (*self.stages, *([merged] if merged else []))}
        if name not in known:
            raise IntegrityError(f"manifest.stages: no {name!r}", "export the bundle again")
        return known[name]
