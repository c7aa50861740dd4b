"""Each stage as a model of the server's ONNX Runtime or TensorRT backend: its file and its dtypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from textual_vision.export.triton.model_config import STAGE_FILES, stage_config, stage_model_name
from textual_vision.export.triton.options import TritonOptions
from textual_vision.runtime.backends.tensorrt.api import load_library
from textual_vision.runtime.backends.tensorrt.cudart import Device, load_cudart, probe
from textual_vision.runtime.backends.tensorrt.engine_session import NUMPY_TYPES
from textual_vision.runtime.backends.tensorrt.session import fingerprint_here
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.engines import EngineRecord, find_engines
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.consistency import split_manifest
from textual_vision.runtime.manifest import StageSpec

TENSORRT = "tensorrt"


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A model of the repository: its name, config.pbtxt, and the files of the new version."""

    name: str
    config: bytes
    files: dict[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The TensorRT library and the GPU of this machine; None means the installed one."""

    trt: Any = None
    device: Device | None = None


def stage_files(
    bundle: Bundle, precision: str, options: TritonOptions, machine: Machine
) -> tuple[dict[str, ModelFiles], dict[str, dict[str, str]]]:
    """Return each stage's model, and the dtypes of its tensors, by the stage's name.

    Raises for TensorRT what `find_engines` does, BackendMissingError without library or GPU, and UsageError
    for engines that take a smaller batch.
    """
    manifest = bundle.manifest
    if options.stages == TENSORRT:
        paths, dtypes = _engines(bundle, precision, options, machine)
    else:
        paths = manifest.precisions[precision].files
        dtypes = {stage.name: _declared(stage) for stage in manifest.stages}
    by_text = {stage.name for unit in split_manifest(manifest)[0] for stage in unit.stages}
    models = {
        stage.name: ModelFiles(
            name=stage_model_name(options.name, stage.name),
            config=stage_config(
                manifest,
                stage,
                options,
                dtypes[stage.name],
                cached=options.cache_text and stage.name in by_text,
            ),
            files={STAGE_FILES[options.stages]: bundle.read(paths[stage.name])},
        )
        for stage in manifest.stages
    }
    return models, dtypes


def _declared(stage: StageSpec) -> dict[str, str]:
    return {spec.name: spec.dtype for spec in (*stage.inputs, *stage.outputs)}


def _engines(
    bundle: Bundle, precision: str, options: TritonOptions, machine: Machine
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The plans for this machine's GPU and TensorRT, and the dtypes of their tensors."""
    device = probe(load_cudart()) if machine.device is None else machine.device
    trt = load_library(TENSORRT) if machine.trt is None else machine.trt
    spec, record = find_engines(bundle, precision, fingerprint_here(trt, TENSORRT, device))
    _check_batch(record, options.max_batch)
    dtypes = {
        stage: {name: np.dtype(NUMPY_TYPES[kind]).name for name, kind in engine.dtypes.items()}
        for stage, engine in record.stages.items()
    }
    return spec.files, dtypes


def _check_batch(record: EngineRecord, max_batch: int) -> None:
    for stage, engine in record.stages.items():
        largest = min(shapes.max[0] for shapes in engine.profile.values())
        if max_batch > largest:
            problem = f"the engine of stage {stage!r} takes batches of at most {largest}, not {max_batch}"
            raise UsageError(problem, "give a smaller --max-batch, or build engines with --batch-profile")
