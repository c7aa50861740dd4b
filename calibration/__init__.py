"""Calibration: from prompts to INT8 ranges."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textual_vision.calibration.histogram import MagnitudeHistogram
    from textual_vision.calibration.prompts import read_prompts
    from textual_vision.calibration.ranges import scale_from_threshold, threshold_from_histogram

_MODULES = {
    "MagnitudeHistogram": "histogram",
    "read_prompts": "prompts",
    "scale_from_threshold": "ranges",
    "threshold_from_histogram": "ranges",
}
__all__ = ["MagnitudeHistogram", "read_prompts", "scale_from_threshold", "threshold_from_histogram"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that importing the package is quick."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
