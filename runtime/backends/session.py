"""The session protocol that every backend implements, and the table of backends."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.errors import BackendMissingError, UsageError, choice_hint, shortened
from textual_vision.runtime.version import extra_command

Array = npt.NDArray[np.generic]


class Session(Protocol):
    """One loaded stage; `inputs` and `outputs` are the names in the graph."""

    @property
    def inputs(self) -> frozenset[str]:
        """The names of the graph's inputs."""

    @property
    def outputs(self) -> frozenset[str]:
        """The names of the graph's outputs."""

    @property
    def largest_batch(self) -> int | None:
        """The largest batch of one `run`; None without a limit."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name; `inputs` has exactly the graph's inputs in their dtypes."""


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How to run a graph: `threads` None leaves the number to the backend; `name` is the file, for errors.

    A graph that this process wrote itself is `trusted`: it may use operators and types that bundles may not.
    ONNX Runtime on the CPU also writes the graph as it has optimized it for this processor to `optimized`.
    Without `spinning`, its threads sleep while they wait for work: less processor time, slower pictures.
    """

    backend: str
    name: str
    threads: int | None = None
    trusted: bool = False
    optimized: Path | None = None
    spinning: bool = True


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A backend: our `module` with `open_session(graph, options)`, and the library that it needs.

    `extra` is the distribution's extra that installs it; `before` and `note` go around that command. With
    `engines` the module has `open_engines(bundle, precision, backend)` instead: it runs no graph.
    """

    module: str
    library: str
    extra: str
    engines: bool = False
    before: str = ""
    note: str = ""

    @property
    def install(self) -> str:
        """The command that installs the library."""
        return f"{self.before}{extra_command(self.extra)}{self.note}"


FAILED_HINT = "tv-generate BUNDLE --verify shows whether the bundle or this machine is at fault"
_ONNXRUNTIME = "textual_vision.runtime.backends.onnxruntime"
_TENSORRT = "textual_vision.runtime.backends.tensorrt.session"
_BEFORE_GPU = "pip uninstall onnxruntime && "

# In order of preference. A backend with False is used only when its name is given.
BACKENDS: dict[str, tuple[Backend, bool]] = {
    "onnxruntime": (
        Backend(module=_ONNXRUNTIME, library="onnxruntime", extra="cpu"),
        True,
    ),
    "openvino": (
        Backend(
            module="textual_vision.runtime.backends.openvino",
            library="openvino",
            extra="openvino",
        ),
        True,
    ),
    "openvino-bf16": (
        Backend(
            module="textual_vision.runtime.backends.openvino",
            library="openvino",
            extra="openvino",
            note="; bfloat16 needs a CPU with AMX or AVX-512 BF16",
        ),
        False,
    ),
    "onnxruntime-cuda": (
        Backend(module=_ONNXRUNTIME, library="onnxruntime", extra="gpu", before=_BEFORE_GPU),
        False,
    ),
    "onnxruntime-tensorrt": (
        Backend(module=_ONNXRUNTIME, library="onnxruntime", extra="gpu", before=_BEFORE_GPU),
        False,
    ),
    "tensorrt": (
        Backend(
            module=_TENSORRT,
            library="tensorrt",
            extra="tensorrt",
            note="; a Jetson has it with JetPack",
            engines=True,
        ),
        False,
    ),
    "tensorrt-rtx": (
        Backend(
            module=_TENSORRT,
            library="tensorrt_rtx",
            extra="rtx",
            engines=True,
        ),
        False,
    ),
}


def open_session(graph: bytes, options: SessionOptions) -> Session:
    """Load the ONNX `graph` into `options.backend`.

    Raises UsageError for an unknown backend, BackendMissingError when its library or device is not there, and
    IntegrityError when the graph cannot be loaded or is none that a bundle may hold (see `graph.check`).
    """
    backend = backend_by_name(options.backend)
    check_threads(options.threads)
    if backend.engines:
        raise UsageError(f"{options.backend} runs a bundle's engines, not a graph", "load the bundle with it")
    if not options.trusted:
        from textual_vision.runtime.graph.check import check_graph

        check_graph(graph, options.name)
    session: Session = imported_backend(options.backend).open_session(graph, options)
    return session


def check_threads(threads: int | None) -> None:
    """UsageError unless `threads` is None or between 1 and the processor cores that this process may use."""
    cores = available_cores()
    if threads is None or (type(threads) is int and 1 <= threads <= cores):
        return
    problem = f"{threads!r} threads on {cores} processor core{'s' if cores > 1 else ''}"
    raise UsageError(problem, f"give 1 to {cores}, or leave it to the backend")


def available_cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def imported_backend(name: str) -> ModuleType:
    """Return the module of a backend; BackendMissingError when its library is missing or damaged."""
    backend = backend_by_name(name)
    try:
        importlib.import_module(backend.library)
    except ImportError as error:
        raise BackendMissingError(f"backend {name!r}: {error}", backend.install) from None
    try:
        return importlib.import_module(backend.module)
    except (ImportError, AttributeError) as error:  # what an uninstalled package left behind imports too
        problem = f"backend {name!r}: {backend.library} is damaged: {error}"
        raise BackendMissingError(problem, f"install it again: {backend.install}") from None


def backend_by_name(name: str) -> Backend:
    """Return the backend called `name`; raises UsageError with the nearest name when there is none."""
    if name in BACKENDS:
        return BACKENDS[name][0]
    raise UsageError(f"unknown backend {name!r}", choice_hint(name, list(BACKENDS)))


def default_backend() -> str:
    """Return the first backend whose library is installed; raises BackendMissingError when there is none."""
    for name, (backend, by_default) in BACKENDS.items():
        spec = importlib.util.find_spec(backend.library) if by_default else None
        if spec is not None and spec.origin is not None:  # a folder that was left behind has none
            return name
    raise BackendMissingError("no backend is installed", BACKENDS["onnxruntime"][0].install)


def lines_of(error: BaseException) -> list[str]:
    """Return the lines of a library's error message, at least one; a damaged name may not be UTF-8."""
    text = str(error)
    if isinstance(error, UnicodeDecodeError):
        text = bytes(error.object).decode("utf-8", "backslashreplace")
    lines = [shortened(line) for line in text.splitlines() if line.strip()]
    return lines or [type(error).__name__]
