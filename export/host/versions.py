"""The versions of the libraries that this project uses, for reports, manifests and cache keys."""

from __future__ import annotations

import functools
import importlib.metadata

from textual_vision.runtime.version import __version__

DISTRIBUTION = "promptsprite"  # the name on the package registry
BUILD_LIBRARIES = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "openvino", "numpy")
RUNTIME_LIBRARIES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")


def installed_versions(libraries: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of the installed ones among `libraries`, by distribution name."""
    found = {name: list(importlib.metadata.distributions(name=name)) for name in libraries}
    return {name: packages[0].version for name, packages in found.items() if packages}


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of this distribution and of the installed libraries that a build uses."""
    return {DISTRIBUTION: __version__, **installed_versions(BUILD_LIBRARIES)}
