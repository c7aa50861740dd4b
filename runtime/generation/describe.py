"""What a loaded model is, in one dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from textual_vision.runtime.backends.session import Session, backend_by_name
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.generation.memory import resident_bytes
from textual_vision.runtime.generation.results import Description


class LoadedModel(Protocol):
    """What a description needs of a model."""

    precision: str
    backend: str
    backend_reason: str
    isolated: bool
    process_id: int | None  # of the child that computes

    @property
    def sessions(self) -> Mapping[str, Session]:
        """Return the sessions by stage."""


def describe_model(bundle: Bundle, model: LoadedModel) -> Description:
    """The description of `model`, which was loaded from `bundle`."""
    manifest = bundle.manifest
    return Description(
        name=manifest.name,
        digest=bundle.digest,
        license=manifest.license,
        precision=model.precision,
        backend=model.backend,
        backend_reason=model.backend_reason,
        providers={
            stage: tuple(getattr(session, "providers", (model.backend,)))
            for stage, session in model.sessions.items()
        },
        isolated=model.isolated,
        height=manifest.image.height,
        width=manifest.image.width,
        max_tokens=None if manifest.text is None else manifest.text.max_tokens,
        largest_batch=manifest.batch.max,
        files={name: manifest.files[name].bytes for name in _loaded_files(bundle, model)},
        memory_bytes=resident_bytes(model.process_id),
    )


def _loaded_files(bundle: Bundle, model: LoadedModel) -> list[str]:
    manifest = bundle.manifest
    stages = [stage.name for stage in manifest.stages]
    if not backend_by_name(model.backend).engines:
        return [manifest.precisions[model.precision].files[stage] for stage in stages]
    engines = [one for one in manifest.engines if one.precision == model.precision]
    return [file for one in engines for file in one.files.values()]
