"""Export: from a checkpoint to a verified bundle of ONNX graphs and engines."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textual_vision.export.build.build import build_bundle
    from textual_vision.export.build.options import BuildOptions
    from textual_vision.export.model.stage import Stage, StagedModel, tensor

_MODULES = {
    "BuildOptions": "build.options",
    "Stage": "model.stage",
    "StagedModel": "model.stage",
    "build_bundle": "build.build",
    "tensor": "model.stage",
}
__all__ = ["BuildOptions", "Stage", "StagedModel", "build_bundle", "tensor"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `--help` does not wait for torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
