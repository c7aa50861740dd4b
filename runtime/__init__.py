"""Generate pictures from prompts with an exported bundle: numpy, tokenizers and one backend."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from textual_vision.runtime.errors import (
    BackendMissingError,
    BundleWarning,
    CancelledError,
    DeviceMismatchError,
    IntegrityError,
    ParityError,
    PromptWarning,
    TextualVisionError,
    TextualVisionWarning,
    ToleranceError,
    UsageError,
)
from textual_vision.runtime.version import __version__

if TYPE_CHECKING:
    from textual_vision.runtime.bundle import Bundle
    from textual_vision.runtime.generation.explain import Explanation
    from textual_vision.runtime.generation.results import Description, GeneratedImage, GeneratedImages
    from textual_vision.runtime.generation.text import EncodedText
    from textual_vision.runtime.isolation.limits import IsolationLimits
    from textual_vision.runtime.noise import noise_from_seed
    from textual_vision.runtime.pipeline import TextToImage


_MODULES = {
    "Bundle": "bundle",
    "Description": "generation.results",
    "EncodedText": "generation.text",
    "Explanation": "generation.explain",
    "IsolationLimits": "isolation.limits",
    "GeneratedImage": "generation.results",
    "GeneratedImages": "generation.results",
    "TextToImage": "pipeline",
    "noise_from_seed": "noise",
}
__all__ = [
    "BackendMissingError",
    "Bundle",
    "BundleWarning",
    "CancelledError",
    "Description",
    "DeviceMismatchError",
    "EncodedText",
    "Explanation",
    "GeneratedImage",
    "GeneratedImages",
    "IntegrityError",
    "IsolationLimits",
    "ParityError",
    "PromptWarning",
    "TextToImage",
    "TextualVisionError",
    "TextualVisionWarning",
    "ToleranceError",
    "UsageError",
    "__version__",
    "noise_from_seed",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `--help` does not wait for numpy."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
