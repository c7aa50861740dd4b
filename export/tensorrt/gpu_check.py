"""Build engines on an NVIDIA GPU, compare them with ONNX Runtime on the CPU, and measure their latency.

`tv-export gpu-check` writes the report as one JSON file, which can be attached to an issue.
"""

from __future__ import annotations

import dataclasses
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from textual_vision.export.host.versions import DISTRIBUTION, RUNTIME_LIBRARIES, installed_versions
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.prompts import COMPARED
from textual_vision.export.parity.tolerance import MERGED_TOLERANCE, TOLERANCES
from textual_vision.export.parity.verdict import batch_from_graphs, parity_of, verdict_of
from textual_vision.export.results import FAIL, PASS
from textual_vision.export.tensorrt.builder import EngineSettings, choose_compute
from textual_vision.export.tensorrt.engines import add_engines
from textual_vision.export.tensorrt.options import EngineBuildOptions
from textual_vision.runtime.backends.session import Session
from textual_vision.runtime.backends.stages import open_stages
from textual_vision.runtime.backends.tensorrt import session as tensorrt
from textual_vision.runtime.backends.tensorrt.api import load_library
from textual_vision.runtime.backends.tensorrt.cudart import CudaRuntime, Device, load_cudart, probe
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.engines import KINDS, jetpack_release
from textual_vision.runtime.errors import BackendMissingError, TextualVisionError, UsageError
from textual_vision.runtime.generation.conditions import usual_texts
from textual_vision.runtime.generation.program import Program, program_from_manifest
from textual_vision.runtime.manifest import StageSpec
from textual_vision.runtime.progress import ProgressCallback
from textual_vision.runtime.version import __version__

SAMPLES, WARM_UP, ITERATIONS = 16, 10, 100
BATCH = 4
PROVIDERS = ("onnxruntime-cuda", "onnxruntime-tensorrt")

Opened = Mapping[str, Session]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """The GPU to check, the installed libraries for it by kind, and the reasons why others are missing."""

    cuda: CudaRuntime
    device: Device
    libraries: Mapping[str, Any]
    missing: Mapping[str, str]


def find_gpu() -> Gpu:
    """Return this machine's GPU and libraries; raises BackendMissingError without a driver or GPU."""
    cuda = load_cudart()
    device = probe(cuda)
    libraries: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for kind in KINDS:
        found = _loaded(kind, device)
        if isinstance(found, TextualVisionError):
            missing[kind] = f"{found.message}; {found.hint}"
        else:
            libraries[kind] = found
    return Gpu(cuda=cuda, device=device, libraries=libraries, missing=missing)


def _loaded(kind: str, device: Device) -> Any:
    """Return the library of `kind`, or the error why none supports `device`; TensorRT-RTX has no Hopper."""
    try:
        library = load_library(kind)
        if kind == "tensorrt-rtx":
            choose_compute(library, (device.compute,))
    except (BackendMissingError, UsageError) as error:
        return error
    return library


def check_bundle(path: Path, gpu: Gpu, *, on_progress: ProgressCallback) -> dict[str, object]:
    """Return the report on all graphs of a bundle on `gpu`, ready for JSON; the bundle stays unchanged.

    A failure is recorded in the report ("verdict", "error"), and the other checks go on.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "bundle.tv"
        shutil.copytree(path, copy)
        found = {
            precision: _precision(copy, precision, gpu, on_progress)
            for precision in Bundle(path).manifest.precisions
        }
    verdicts = [one["verdict"] for backends in found.values() for one in backends.values()]
    return {
        "bundle": Bundle(path).manifest.name,
        "device": dataclasses.asdict(gpu.device),
        "jetpack": jetpack_release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "libraries": {DISTRIBUTION: __version__, **installed_versions(RUNTIME_LIBRARIES)},
        "missing": dict(gpu.missing),
        "precisions": found,
        "verdict": PASS if verdicts and set(verdicts) == {PASS} else FAIL,
    }


def _precision(
    path: Path, precision: str, gpu: Gpu, on_progress: ProgressCallback
) -> dict[str, dict[str, object]]:
    reference = open_stages(Bundle(path), precision, "onnxruntime", None)
    batches = batches_of(Bundle(path), reference)
    found: dict[str, dict[str, object]] = {}
    for kind in gpu.libraries:
        on_progress(f"{precision} on {kind}")
        found[kind] = _attempt(partial(_engines, path, precision, kind, gpu, batches, on_progress))
    for provider in PROVIDERS:
        on_progress(f"{precision} on {provider}")
        found |= _by_provider(path, precision, provider, batches, on_progress)
    return found


def _by_provider(
    path: Path,
    precision: str,
    provider: str,
    batches: Sequence[ReferenceBatch],
    on_progress: ProgressCallback,
) -> dict[str, dict[str, object]]:
    """Return the comparison of ONNX Runtime on the GPU; empty when its GPU package is not installed."""
    bundle = Bundle(path)
    try:
        sessions = open_stages(bundle, precision, provider, None)
    except BackendMissingError as error:
        on_progress(f"skipped: {error.message}")
        return {}
    except TextualVisionError as error:
        return {provider: _failed(error)}
    return {
        provider: _attempt(
            partial(_compared, program_from_manifest(bundle.manifest), sessions, batches, precision)
        )
    }


def _attempt(work: Callable[[], dict[str, object]]) -> dict[str, object]:
    try:
        return work()
    except TextualVisionError as error:
        return _failed(error)


def _failed(error: TextualVisionError) -> dict[str, object]:
    return {"verdict": FAIL, "error": error.message, "hint": error.hint}


def _engines(
    path: Path,
    precision: str,
    kind: str,
    gpu: Gpu,
    batches: Sequence[ReferenceBatch],
    on_progress: ProgressCallback,
) -> dict[str, object]:
    compute = (gpu.device.compute,) if kind == "tensorrt-rtx" else ()
    settings = EngineSettings(precision=precision, compute=compute)
    options = EngineBuildOptions(kind=kind, settings=settings, rebuild=True)
    library = gpu.libraries[kind]
    built = add_engines(path, options, on_progress=on_progress, trt=library, device=gpu.device)
    found: dict[str, object] = {"engines": dataclasses.asdict(built)}
    for name, graph in (("plain", False), ("cuda_graph", True)):
        run = tensorrt.EngineRunOptions(cuda_graph=graph)
        sessions = tensorrt.open_engines(Bundle(path), precision, kind, run, cuda=gpu.cuda, trt=library)
        try:
            found[name] = _compared(
                program_from_manifest(Bundle(path).manifest), sessions, batches, precision
            )
        finally:
            sessions.close()
    found["verdict"] = FAIL if FAIL in (_verdict(found["plain"]), _verdict(found["cuda_graph"])) else PASS
    return found


def _verdict(found: object) -> object:
    assert isinstance(found, dict)
    return found["verdict"]


def _compared(
    program: Program, sessions: Opened, batches: Sequence[ReferenceBatch], precision: str
) -> dict[str, object]:
    """Return the parity with ONNX Runtime on the CPU, and the latency of each stage at batch 1."""
    # The reference is the same graph, not PyTorch: its codes have no margins that identify near ties.
    tolerance = TOLERANCES[precision] if precision in TOLERANCES and precision != "fp32" else MERGED_TOLERANCE
    parity = parity_of(program, sessions, batches, tolerance=tolerance, backend="gpu")
    return {
        "verdict": verdict_of(parity),
        "parity": [dataclasses.asdict(one) for one in parity],
        "milliseconds": {
            stage.name: _times(sessions[stage.name], stage, batches[0]) for stage in program.stages
        },
    }


def _times(session: Session, stage: StageSpec, batch: ReferenceBatch) -> dict[str, float]:
    inputs = {tensor.name: batch.tensors[tensor.name][:1] for tensor in stage.inputs}
    times = []
    for _ in range(WARM_UP + ITERATIONS):
        start = time.perf_counter()
        session.run(inputs)
        times.append(1e3 * (time.perf_counter() - start))
    measured = sorted(times[WARM_UP:])
    return {
        "median": round(statistics.median(measured), 4),
        "p95": round(measured[int(0.95 * len(measured))], 4),
        "min": round(measured[0], 4),
    }


def batches_of(bundle: Bundle, reference: Opened) -> tuple[ReferenceBatch, ...]:
    """Return prompts and seeds with every tensor of the pipeline as the `reference` computes it."""
    manifest = bundle.manifest
    size = min(BATCH, manifest.batch.max)
    batches = []
    for start in range(0, SAMPLES, size):
        texts = usual_texts(manifest, COMPARED, size, start)
        batches.append(batch_from_graphs(bundle, reference, texts, range(start, start + size)))
    return tuple(batches)
