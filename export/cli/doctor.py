"""tv-export doctor: find out which libraries, backends and GPUs work on this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from textual_vision.runtime.errors import TextualVisionError

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
TIMEOUT_SECONDS = 10  # of another program


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One checked part: whether it `works`, the details found, and a hint about making it work."""

    name: str
    works: bool
    found: str
    hint: str = ""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor_command(as_json: bool) -> None:
    """Show the backends that work on this machine.

    For the others it prints the package to install.
    """
    from textual_vision.export.cli import printing

    printing.show_doctor(examined(), as_json)


def examined() -> tuple[Finding, ...]:
    """Return the findings of all checks; a missing part is a finding, not an error."""
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
    from textual_vision.export.host.versions import DISTRIBUTION, installed_versions
    from textual_vision.runtime.version import __version__

    installed = {DISTRIBUTION: __version__, **installed_versions(LIBRARIES)}
    found = [Finding(name=name, works=True, found=version) for name, version in installed.items()]
    if {"onnxruntime", "onnxruntime-gpu"} <= installed.keys():
        problem = "onnxruntime and onnxruntime-gpu are both installed, and each overwrites the other's files"
        hint = "pip uninstall onnxruntime onnxruntime-gpu, then install one of them"
        found.append(Finding(name="ONNX Runtime", works=False, found=problem, hint=hint))
    return found


def _backends() -> list[Finding]:
    """Return a finding for each backend of ONNX graphs, which computes a small graph."""
    if importlib.util.find_spec("onnx") is None:
        hint = "pip install 'promptsprite[export]'"
        return [Finding(name="backends", works=False, found="not tried: onnx is not installed", hint=hint)]
    from textual_vision.export.graph.smoke_graph import smoke_graph
    from textual_vision.runtime.backends.session import BACKENDS

    graph = smoke_graph()
    return [
        _tried(f"backend {name}", lambda name=name: _computed(graph, name), backend.install)  # type: ignore[misc]
        for name, (backend, _) in BACKENDS.items()
        if backend.module.rpartition(".")[2] in ("onnxruntime", "openvino")
    ]


def _computed(graph: bytes, backend: str) -> str:
    import numpy as np

    from textual_vision.runtime.backends.session import SessionOptions, open_session

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

    return _tried("TensorRT", work, "pip install 'promptsprite[tensorrt]'; a Jetson has it with JetPack")


def _tensorrt_rtx() -> Finding:
    def work() -> str:
        from textual_vision.runtime.backends.tensorrt.api import load_library

        return f"TensorRT-RTX {load_library('tensorrt-rtx').__version__} builds engines for desktop GPUs"

    return _tried("TensorRT-RTX", work, "pip install 'promptsprite[rtx]'")


def _npm() -> Finding:
    path = shutil.which("npm")
    hint = "" if path else "install Node.js with npm to fetch the emoji corpus; only training needs it"
    return Finding(name="npm", works=path is not None, found=path or "not found", hint=hint)


def _output(command: list[str]) -> str:
    """Return the output of a program; empty when the program is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
