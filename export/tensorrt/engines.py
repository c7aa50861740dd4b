"""Add engines to a bundle: build every stage, check the layer tables, and write all engines or none."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textual_vision.export.bundle.writer import check_place, write_bundle
from textual_vision.export.precision.lossless_storage import expand_constants
from textual_vision.export.tensorrt.builder import Plan, build_plan, choose_compute, table_from_plan
from textual_vision.export.tensorrt.dla import check_dla_used
from textual_vision.export.tensorrt.layer_table import (
    check_int8,
    count_types,
    layers_from_table,
    node_types,
    product_nodes,
)
from textual_vision.export.tensorrt.memory import available_bytes, build_bytes, check_memory
from textual_vision.export.tensorrt.options import (
    EngineBuildOptions,
    check_options,
    check_reused,
    settings_as_text,
)
from textual_vision.export.tensorrt.targets import fingerprint_to_build, profile_of
from textual_vision.runtime.backends.tensorrt.api import load_library
from textual_vision.runtime.backends.tensorrt.cudart import Device, load_cudart, probe
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.engines import (
    ENGINE_JSON,
    ENGINE_SCHEMA_VERSION,
    DlaCount,
    EngineRecord,
    Fingerprint,
    LayerCount,
    ShapeRange,
    StageEngine,
    bytes_from_record,
    check_graphs,
    check_kind,
    engine_folder,
    read_record,
)
from textual_vision.runtime.errors import UsageError, choice_hint
from textual_vision.runtime.files import write_atomic
from textual_vision.runtime.isolation.trusted import is_trusted, trust_written
from textual_vision.runtime.manifest import EngineSpec, Manifest, StageSpec
from textual_vision.runtime.progress import ProgressCallback

DLA_TYPE = "dla"  # the type of layers on the DLA, which TensorRT does not report


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """One stage's engine: its file, size, build time, and layer types (None: not reported)."""

    stage: str
    file: str
    bytes: int
    seconds: float
    dtype_counts: LayerCount | None
    expected_int8: int
    dla: DlaCount | None = None


@dataclass(frozen=True, kw_only=True)
class EngineResult:
    """The added engines; `reused` when the bundle has fitting engines already and nothing is built."""

    fingerprint: str
    precision: str
    reused: bool
    stages: tuple[StageResult, ...]


@dataclass(frozen=True, kw_only=True)
class EngineBuild:
    """The inputs of one build of engines."""

    trt: Any
    bundle: Bundle
    options: EngineBuildOptions
    fingerprint: Fingerprint
    on_progress: ProgressCallback


def add_engines(
    path: Path,
    options: EngineBuildOptions,
    *,
    on_progress: ProgressCallback,
    trt: Any = None,
    device: Device | None = None,
) -> EngineResult:
    """Build engines of every stage and replace the bundle at `path` by one that contains them.

    `trt` and `device` None mean the installed library and this machine's GPU. Raises UsageError (no such
    precision or option in this version), BackendMissingError (no library, driver or GPU), ToleranceError
    (layers that should run in INT8 do not), DeviceMismatchError (too little memory), IntegrityError (a graph
    that the library cannot read, engines of an older graph without `rebuild`), TextualVisionError.
    """
    check_options(options)
    bundle = Bundle(path)
    check_place(path, force=True)  # before the build, which takes minutes or hours
    precision = options.settings.precision
    if precision not in bundle.manifest.precisions:
        hint = choice_hint(precision, list(bundle.manifest.precisions))
        raise UsageError(f"the bundle has no precision {precision!r}", hint)
    if device is None and options.kind == "tensorrt":
        device = probe(load_cudart())  # before the library is loaded, which crashes without a driver
    trt = load_library(options.kind) if trt is None else trt
    fingerprint = fingerprint_to_build(trt, options.kind, options.settings, device)
    job = EngineBuild(
        trt=trt, bundle=bundle, options=options, fingerprint=fingerprint, on_progress=on_progress
    )
    if (reused := _reused(job)) is not None:
        return reused
    return _write(job, *_build_stages(job))


def check_machine(kind: str, compute: tuple[str, ...] = ()) -> None:
    """Raise BackendMissingError or UsageError unless this machine can build engines of `kind`."""
    check_kind(kind)
    if kind == "tensorrt":
        probe(load_cudart())
    trt = load_library(kind)
    if compute:
        choose_compute(trt, compute)


def _reused(job: EngineBuild) -> EngineResult | None:
    """Return the bundle's existing engines; None when there are none or --rebuild is given."""
    name, precision = job.fingerprint.name, job.options.settings.precision
    for spec in job.bundle.manifest.engines:
        if (spec.fingerprint, spec.precision) == (name, precision) and not job.options.rebuild:
            record = read_record(job.bundle, spec)
            check_graphs(job.bundle, spec, record)
            check_reused(record, job.options, job.bundle.manifest)
            return EngineResult(fingerprint=name, precision=precision, reused=True, stages=())
    return None


def _build_stages(
    job: EngineBuild,
) -> tuple[dict[str, bytes], dict[str, StageEngine], tuple[StageResult, ...]]:
    folder = engine_folder(job.fingerprint, job.options.settings.precision)
    plans: dict[str, bytes] = {}
    engines: dict[str, StageEngine] = {}
    results: list[StageResult] = []
    for stage in job.bundle.manifest.stages:
        file = f"{folder}/{stage.name}.plan"
        started = time.monotonic()
        plan, engines[stage.name], expected = _build_stage(job, stage)
        plans[file] = plan.plan
        result = StageResult(
            stage=stage.name,
            file=file,
            bytes=len(plan.plan),
            seconds=round(time.monotonic() - started, 2),
            dtype_counts=engines[stage.name].dtype_counts,
            expected_int8=expected,
            dla=plan.dla,
        )
        results.append(result)
        job.on_progress(
            f"{stage.name}: {result.bytes / 1e6:.1f} MB in {result.seconds:.1f} s, {_summary(result)}"
        )
    if counts := {result.stage: result.dla for result in results if result.dla is not None}:
        check_dla_used(counts)
    return plans, engines, tuple(results)


def _build_stage(job: EngineBuild, stage: StageSpec) -> tuple[Plan, StageEngine, int]:
    manifest, options = job.bundle.manifest, job.options
    weak_int8 = options.settings.weakly_typed and options.settings.precision == "int8"
    file = manifest.precisions[_float_precision(manifest) if weak_int8 else options.settings.precision].files
    graph_file = file[stage.name]
    graph = expand_constants(job.bundle.read(graph_file))
    if not options.ignore_memory:
        needed = build_bytes(options.kind, len(graph), options.settings.workspace_bytes)
        check_memory(needed, available_bytes(), graph_file)
    profile = profile_of(stage, options.batch_profile or manifest.batch, manifest.text)
    plan = build_plan(
        job.trt,
        graph,
        graph_file,
        profile,
        options.settings,
        on_progress=lambda text: job.on_progress(f"{stage.name}: {text}"),
        timing_cache=_timings(job),
        calibrator=_calibrator(job) if weak_int8 else None,
    )
    _write_timings(job, plan.timing_cache)
    types, expected = _layer_types(job, graph, graph_file, plan, profile)
    engine = StageEngine(
        graph=graph_file,
        graph_sha256=manifest.files[graph_file].sha256,
        profile=profile,
        dtypes=plan.dtypes,
        dtype_counts=count_types(types) if types else None,
        layers=types,
        dla=plan.dla,
    )
    return plan, engine, expected


def _layer_types(
    job: EngineBuild, graph: bytes, name: str, plan: Plan, profile: dict[str, ShapeRange]
) -> tuple[dict[str, str], int]:
    """Return each product's type in the layer table, and the number of nodes expected in INT8.

    Raises ToleranceError when one of these does not run in INT8.
    """
    table = (
        plan.table
        if plan.table is not None
        else table_from_plan(job.trt, plan.plan, job.options.settings, profile)
    )
    operators, expected = product_nodes(graph)
    if not operators:
        return {}, 0
    types = node_types(layers_from_table(table), operators)
    unnamed = operators.keys() - types.keys()
    if plan.dla is not None and plan.dla.dla:
        # A subgraph on the DLA is one row, which may not name its nodes or its type.
        types |= dict.fromkeys(unnamed, DLA_TYPE)
        check_int8(types, operators, expected - unnamed, name)
    else:
        check_int8(types, operators, expected, name)
    return types, len(expected)


def _float_precision(manifest: Manifest) -> str:
    if "fp32" not in manifest.precisions:
        raise UsageError(
            "--weakly-typed int8 needs fp32 graphs, which the bundle lacks",
            "export with --precision fp32 too",
        )
    return "fp32"


def _calibrator(job: EngineBuild) -> Any:
    from textual_vision.calibration.tensorrt_cache import calibrator_from_cache

    if job.options.calibration_cache is None:
        raise UsageError(
            "--weakly-typed with int8 needs a calibration cache",
            "give --calibration-cache FILE, or leave out --weakly-typed",
        )
    return calibrator_from_cache(job.trt, job.options.calibration_cache)


def _timing_file(job: EngineBuild) -> Path | None:
    folder = job.options.timing_folder
    return None if folder is None else folder / f"{job.fingerprint.name}.timing"


def _timings(job: EngineBuild) -> bytes:
    file = _timing_file(job)
    return file.read_bytes() if file is not None and file.is_file() else b""


def _write_timings(job: EngineBuild, data: bytes | None) -> None:
    file = _timing_file(job)
    if file is not None and data:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, data)


def _write(
    job: EngineBuild,
    plans: dict[str, bytes],
    engines: dict[str, StageEngine],
    results: tuple[StageResult, ...],
) -> EngineResult:
    manifest, settings = job.bundle.manifest, job.options.settings
    record = EngineRecord(
        schema_version=ENGINE_SCHEMA_VERSION,
        fingerprint=job.fingerprint,
        precision=settings.precision,
        settings=settings_as_text(settings),
        stages=engines,
        dla_core=settings.dla_core,
    )
    spec = EngineSpec(
        fingerprint=job.fingerprint.name,
        precision=settings.precision,
        files={result.stage: result.file for result in results},
    )
    replaced = [old for old in manifest.engines if _is_replaced(job, old)]
    folder = engine_folder(job.fingerprint, settings.precision)
    gone = tuple(f"{engine_folder_of(old)}/" for old in replaced)
    files = {name: job.bundle.read(name) for name in manifest.files if not name.startswith(gone)}
    files |= plans
    files[f"{folder}/{ENGINE_JSON}"] = bytes_from_record(record)
    kept = tuple(old for old in manifest.engines if old not in replaced)
    written = write_bundle(job.bundle.root, dataclasses.replace(manifest, engines=(*kept, spec)), files)
    if is_trusted(job.bundle.digest):  # engines of a stranger's graphs are a stranger's still
        trust_written(written)
    return EngineResult(fingerprint=spec.fingerprint, precision=spec.precision, reused=False, stages=results)


def engine_folder_of(spec: EngineSpec) -> str:
    """Return the folder of the plans of `spec` in the bundle."""
    return next(iter(spec.files.values())).rpartition("/")[0]


def _is_replaced(job: EngineBuild, old: EngineSpec) -> bool:
    """Return whether the new engines replace `old`: the same precision and GPUs, of any library version."""
    if old.precision != job.options.settings.precision:
        return False
    if old.fingerprint == job.fingerprint.name:
        return True
    built = read_record(job.bundle, old).fingerprint
    same = (built.kind, built.compute, built.compatibility) == (
        job.fingerprint.kind,
        job.fingerprint.compute,
        job.fingerprint.compatibility,
    )
    return same and job.options.rebuild


def _summary(result: StageResult) -> str:
    count = result.dtype_counts
    where = f", {result.dla.dla} layers on the DLA, {result.dla.gpu} on the GPU" if result.dla else ""
    if count is None:
        return f"its layer table names no convolution or matrix product{where}"
    parts = [
        f"{number} in {name}"
        for name, number in (
            ("INT8", count.int8),
            ("FP16", count.fp16),
            ("float32", count.float32),
            ("other types", count.other),
        )
        if number
    ]
    return f"products: {', '.join(parts)}{where}"
