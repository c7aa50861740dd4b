"""What this machine can do: libraries and providers that really work, not merely listed, and its hardware."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from textual_vision.export.graph.smoke_graph import smoke_graph
from textual_vision.runtime.backends.session import BACKENDS, SessionOptions, open_session
from textual_vision.runtime.errors import TextualVisionError
from textual_vision.runtime.version import __version__

LIBRARIES = (
    "numpy",
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "transformers",
)
TEGRA_MODEL = Path("/proc/device-tree/model")
SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at: `works`, what was found, and what to do for more."""

    name: str
    works: bool
    found: str
    hint: str = ""


def examined() -> tuple[Finding, ...]:
    """Look at everything; never raises for what is missing."""
    return (*_machine(), *_libraries(), *_backends(), _tensorrt(), _tensorrt_rtx(), _npm())


def _machine() -> list[Finding]:
    found = [
        Finding(name="Python", works=sys.version_info >= (3, 10), found=platform.python_version()),
        Finding(name="system", works=True, found=f"{platform.system()} {platform.machine()}"),
        Finding(name="processors", works=True, found=str(os.cpu_count())),
    ]
    if TEGRA_MODEL.is_file():
        model = TEGRA_MODEL.read_bytes().decode("utf-8", "replace").strip("\0\n ")
        mode = _output(["nvpmodel", "-q"]) or "unknown: run nvpmodel -q as root"
        found.append(Finding(name="Jetson", works=True, found=f"{model}, power mode {mode.splitlines()[-1]}"))
    return found


def _libraries() -> list[Finding]:
    found = [Finding(name="promptsprite", works=True, found=__version__)]
    for name in LIBRARIES:
        versions = [one.version for one in importlib.metadata.distributions(name=name)]
        if versions:
            found.append(Finding(name=name, works=True, found=versions[0]))
    if {"onnxruntime", "onnxruntime-gpu"} <= {one.name for one in found}:
        problem = "both onnxruntime and onnxruntime-gpu are installed: one overwrites the other"
        hint = "pip uninstall onnxruntime onnxruntime-gpu, then install one"
        found.append(Finding(name="ONNX Runtime", works=False, found=problem, hint=hint))
    return found


def _backends() -> list[Finding]:
    """Every backend that takes ONNX graphs computes a small one."""
    graph = smoke_graph() if importlib.util.find_spec("onnx") is not None else None
    if graph is None:
        return [
            Finding(
                name="backends",
                works=False,
                found="not tried: onnx is not installed",
                hint="pip install 'promptsprite[export]'",
            )
        ]
    return [
        _tried(f"backend {name}", lambda name=name: _computed(graph, name), backend.install)  # type: ignore[misc]
        for name, (backend, _) in BACKENDS.items()
        if backend.module.rpartition(".")[2] in ("onnxruntime", "openvino")
    ]


def _computed(graph: bytes, backend: str) -> str:
    import numpy as np

    session = open_session(graph, SessionOptions(backend=backend, name="a small graph"))
    inputs = np.arange(4, dtype=np.float32).reshape(1, 4)
    result = session.run({"x": inputs})["y"]
    if not np.array_equal(result, inputs * 2 + 1):
        raise TextualVisionError(f"{backend} computed {result.tolist()}")
    return "works: computed a small graph"


def _tried(name: str, work: Callable[[], str], hint: str) -> Finding:
    try:
        return Finding(name=name, works=True, found=work())
    except TextualVisionError as error:
        return Finding(name=name, works=False, found=error.message, hint=error.hint or hint)


def _tensorrt() -> Finding:
    def work() -> str:
        from textual_vision.runtime.backends.tensorrt.api import load_library
        from textual_vision.runtime.backends.tensorrt.cudart import load_cudart, probe

        library = load_library("tensorrt")
        device = probe(load_cudart())
        return f"TensorRT {library.__version__} on {device}"

    return _tried("TensorRT", work, "pip install 'promptsprite[tensorrt]'; on Jetson use JetPack's own")


def _tensorrt_rtx() -> Finding:
    def work() -> str:
        from textual_vision.runtime.backends.tensorrt.api import load_library

        return f"TensorRT-RTX {load_library('tensorrt-rtx').__version__} builds engines for desktop GPUs"

    return _tried("TensorRT-RTX", work, "pip install 'promptsprite[rtx]'")


def _npm() -> Finding:
    place = shutil.which("npm")
    hint = "" if place else "install Node.js with npm to fetch the corpus for training; drawing needs none"
    return Finding(name="npm", works=place is not None, found=place or "not found", hint=hint)


def _output(command: list[str]) -> str:
    """What a program prints, or nothing when it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
