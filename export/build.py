"""From a checkpoint to a bundle: export, rewrite, convert, merge, compare, write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from textual_vision.calibration.cache import Origin, origin_of, read_cache
from textual_vision.calibration.prompts import random_prompts
from textual_vision.calibration.ranges import AUTO, check_method
from textual_vision.export.arrange import ARRANGE
from textual_vision.export.budget import parse_budget
from textual_vision.export.bundle import check_place, write_bundle
from textual_vision.export.compare import compared
from textual_vision.export.contents import bundle_contents
from textual_vision.export.exports import exports_begun
from textual_vision.export.garbage import collected_lately
from textual_vision.export.measure import usable_backends
from textual_vision.export.merge import merged_from_stages
from textual_vision.export.parity import failure_of
from textual_vision.export.precision import FloatGraphs, PrecisionGraphs, check_precision, convert
from textual_vision.export.prompts import CALIBRATED, COMPARED
from textual_vision.export.quantise_calibration import (
    CALIBRATION_PROMPTS,
    FOLDER,
    calibration_files,
    chosen_prompts,
    notes_of_calibration,
    ranges_from_cache,
)
from textual_vision.export.reference import REFERENCE_BACKEND, REFERENCE_PRECISIONS
from textual_vision.export.report_step import command_of, files_of_report
from textual_vision.export.results import FAIL, PASS, BuildResult, PrecisionResult, RewriteResult
from textual_vision.export.results_json import bytes_from_results, rewrites_from_bytes
from textual_vision.export.rewrites import Ground, check_rewrites, rewritten
from textual_vision.export.samples import Batch, batches_from_bytes, bytes_from_batches, reference_batches
from textual_vision.export.sessions import OpenedSessions
from textual_vision.export.stages import MERGED, StagedModel, model_of
from textual_vision.export.steps import Steps, Tell, packed, unpacked, versions
from textual_vision.export.to_onnx import check_opset
from textual_vision.export.to_onnx_beside import ExportTask
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import BatchProfile
from textual_vision.runtime.noise import RECIPE

NOTES_FILE, GRAPH_FILE, LOWERED_FILE = "notes.json", "graph.onnx", "lowered.onnx"
EXPORTED_FILE = "exported.onnx"
CALIBRATION_SEED = 1 << 32  # calibration draws other noise than the comparison


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What `tv-export build` can be told; see its help. `tokens` None leaves the prompt's length open."""

    precisions: tuple[str, ...] = ("fp32",)
    opset: int = 20
    batch: BatchProfile = field(default_factory=lambda: BatchProfile(min=1, opt=1, max=8))
    tokens: int | None = None
    samples: int = 32
    seed: int = 0
    prompts: tuple[str, ...] = COMPARED
    calibration_prompts: tuple[str, ...] = CALIBRATED
    calibration_random: bool = False
    calibration_count: int = CALIBRATION_PROMPTS
    calibration_cache: Path | None = None
    target: str = "cpu"
    no_rewrite: tuple[str, ...] = ()
    budget: str | None = None
    range_method: str = AUTO
    reference: bool = False
    merged: bool = True
    force: bool = False
    allow_failing: bool = False


@dataclass(frozen=True, kw_only=True)
class _Build:
    """A build under way."""

    model: StagedModel
    options: BuildOptions
    steps: Steps


@collected_lately()
def build(
    source: str, folder: Path, options: BuildOptions, *, cache: Path | None = None, tell: Tell | None = None
) -> BuildResult:
    """Export the model at `source` (see `load_model`) into the bundle `folder`.

    `cache` None keeps no steps. Raises UsageError (options that contradict each other, no such model, an
    operator that cannot be exported), IntegrityError (a damaged checkpoint), OSError, and ParityError when a
    precision is outside its budget: nothing is written then, unless `allow_failing`.
    """
    check_options(options)
    check_place(folder, force=options.force)
    at = _Build(model=model_of(source, options.tokens), options=options, steps=Steps(cache, tell))
    batches = _drawn(at, "draw the reference", options.prompts, options.samples, options.seed, margins=True)
    how = ExportTask(
        source=source, opset=options.opset, tokens=options.tokens, arranged=ARRANGE not in options.no_rewrite
    )
    with exports_begun(at.model, how, at.steps, batches[0]) as exported:
        calibration = _calibration(at) if set(options.precisions) - {"fp32"} else ()
        raw = exported()
    floats, rewrites = _float_graphs(at, raw, batches[0])
    made = {name: _precision(at, name, floats, calibration) for name in options.precisions}
    opened = OpenedSessions()
    precisions = tuple(_compared(at, name, graphs, batches, opened) for name, graphs in made.items())
    del opened
    result = _result(at, folder, precisions, rewrites)
    if result.verdict == FAIL and not options.allow_failing:
        raise failure_of(precisions)
    graphs = {name: one.graphs for name, one in made.items()}
    manifest, files = bundle_contents(at.model, result, graphs, batches, options.batch)
    files.update({path: data for one in made.values() for path, data in one.files.items()})
    command = command_of(source, folder, options)
    work = partial(files_of_report, at.model, manifest, result, graphs, batches, command)
    at.steps.timed("draw the report", lambda: files.update(work()))
    at.steps.timed("write the bundle", lambda: write_bundle(folder, manifest, files))
    at.steps.prune()
    return _result(at, folder, precisions, rewrites)


def plan(options: BuildOptions, stages: Sequence[str]) -> list[str]:
    """The steps that `build` would take, in words."""
    steps = [f"draw {options.samples} pictures with PyTorch"]
    offered, count = len(options.calibration_prompts), options.calibration_count
    if offered > count and set(options.precisions) - {"fp32"}:
        steps.append(f"choose {count} of {offered} prompts to calibrate on")
    steps += [f"export {stage}, opset {options.opset}" for stage in stages]
    steps += [f"rewrite {stage} for {options.target}" for stage in stages]
    for precision in options.precisions:
        merged = " and merge its stages" if options.merged else ""
        steps += [
            f"make {precision}{merged}",
            f"compare {precision} by {', '.join(_backends(options, (precision,)))}",
        ]
    return [*steps, "draw the report", "write the bundle"]


def check_options(options: BuildOptions) -> None:
    """UsageError when the options make no sense, before any work is done."""
    check_opset(options.opset)
    check_rewrites(options.no_rewrite, options.target)
    if not options.precisions:
        raise UsageError("no precision", "give at least one: --precision fp32")
    for name in options.precisions:
        check_precision(name)
    if options.budget is not None:
        parse_budget(options.budget)
    check_method(options.range_method)
    if options.calibration_count < 1:
        raise UsageError("no prompt to calibrate on", "give at least one: --calibration-prompts 64")
    if options.calibration_cache is not None:
        if "int8" not in options.precisions:
            raise UsageError("--calibration-cache without int8 to use it", "add --precision int8")
        read_cache(options.calibration_cache, None)
    batch = options.batch
    if not 1 <= batch.min <= batch.opt <= batch.max:
        problem = f"batch profile {batch.min},{batch.opt},{batch.max} is out of order"
        raise UsageError(problem, "give MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX: --batch 1,1,8")
    if options.samples < 2:
        raise UsageError(f"{options.samples} samples", "compare on 2 or more: --samples 32")


def _drawn(
    at: _Build, name: str, texts: tuple[str, ...], samples: int, seed: int, *, margins: bool
) -> tuple[Batch, ...]:
    def work() -> bytes:
        batches = reference_batches(at.model, texts, samples=samples, seed=seed, margins=margins)
        return bytes_from_batches(batches)

    depends = [at.model.digest, texts, samples, seed, at.options.tokens, margins]
    return batches_from_bytes(at.steps.run(name, depends, work))


def _float_graphs(
    at: _Build, raw: Mapping[str, bytes], example: Batch
) -> tuple[dict[str, dict[str, bytes]], tuple[RewriteResult, ...]]:
    """By file name (EXPORTED_FILE, GRAPH_FILE, LOWERED_FILE) and stage the graphs; what rewrites bought."""
    graphs: dict[str, dict[str, bytes]] = {EXPORTED_FILE: dict(raw), GRAPH_FILE: {}, LOWERED_FILE: {}}
    results: list[RewriteResult] = []
    for stage, graph in raw.items():
        depends = [graph, at.options.no_rewrite, at.options.target, usable_backends()]
        work = partial(_rewritten, at, stage, graph, example)
        files = unpacked(at.steps.run(f"rewrite {stage}", depends, work))
        results += rewrites_from_bytes(files[NOTES_FILE])
        for name in (GRAPH_FILE, LOWERED_FILE):
            graphs[name][stage] = files[name]
    return graphs, tuple(results)


def _rewritten(at: _Build, stage: str, graph: bytes, batch: Batch) -> bytes:
    ground = Ground(
        stage=at.model.stage(stage).spec, batch=batch, backends=usable_backends(), target=at.options.target
    )
    made = rewritten(graph, ground, without=at.options.no_rewrite)
    results = bytes_from_results(made.results)
    return packed({GRAPH_FILE: made.graph, LOWERED_FILE: made.lowered, NOTES_FILE: results})


def _precision(
    at: _Build, name: str, floats: Mapping[str, Mapping[str, bytes]], calibration: tuple[Batch, ...]
) -> PrecisionGraphs:
    """The precision's graphs, the merged one among them."""
    options = at.options
    if name == "fp32":
        calibration = ()
    origin = _origin(at, calibration, floats[EXPORTED_FILE])
    given = options.calibration_cache if name == "int8" else None
    source = FloatGraphs(
        stages=tuple(stage.spec for stage in at.model.stages),
        fp32=floats[LOWERED_FILE if name == "int8" else GRAPH_FILE],
        batches=calibration,
        target=options.target,
        budget=options.budget,
        range_method=options.range_method,
        ranges={} if given is None else ranges_from_cache(given, origin, options.range_method),
    )
    depends = [name, dict(source.fp32), source.target, bytes_from_batches(calibration), options.merged]
    if name == "int8":
        cached = None if given is None else given.read_bytes()
        depends += [source.budget, source.range_method, cached, origin.digest]
    files = unpacked(at.steps.run(f"make {name}", depends, partial(_converted, at, name, source, origin)))
    notes = json.loads(files.pop(NOTES_FILE))
    others = {path: files.pop(path) for path in list(files) if path.startswith(f"{FOLDER}/")}
    if name == "int8":
        ranges = options.range_method if given is None else f"the cache {given.name}"
        offered = (
            options.calibration_count if options.calibration_random else len(options.calibration_prompts)
        )
        notes["calibration"] = notes_of_calibration(at.model, calibration, offered, ranges)
    return PrecisionGraphs(notes=notes, graphs=files, files=others)


def _compared(
    at: _Build, name: str, made: PrecisionGraphs, batches: Sequence[Batch], opened: OpenedSessions
) -> PrecisionResult:
    return compared(at.model, name, made, batches, at.steps, opened, reference=at.options.reference)


def _calibration(at: _Build) -> tuple[Batch, ...]:
    """Drawings of the prompts to calibrate on; of more than are wanted, those that visit the most rows."""
    options, texts = at.options, at.options.calibration_prompts
    seed = options.seed + CALIBRATION_SEED
    if options.calibration_random:
        texts = random_prompts(at.model.tokenizer, options.calibration_count, options.seed)
    if len(texts) > options.calibration_count:
        count = options.calibration_count

        def work() -> bytes:
            chosen = chosen_prompts(at.model, texts, count=count, seed=seed)
            return json.dumps(chosen).encode()

        depends = [at.model.digest, texts, count, seed, options.tokens]
        chosen = json.loads(at.steps.run("choose prompts to calibrate on", depends, work))
        texts = tuple(texts[index] for index in chosen)
    return _drawn(at, "draw to calibrate", texts, len(texts), seed, margins=False)


def _origin(at: _Build, batches: Sequence[Batch], exported: Mapping[str, bytes]) -> Origin:
    """What ranges depend on. The exported graphs, not the rewritten: between those, time decides."""
    return origin_of(
        [prompt for batch in batches for prompt in batch.prompts],
        [seed for batch in batches for seed in batch.seeds],
        at.model.tokenizer,
        {"noise": RECIPE, "tokens": at.options.tokens, "longest": at.model.text.max_tokens},
        {**exported, "rewrites left out": json.dumps(sorted(at.options.no_rewrite)).encode()},
    )


def _converted(at: _Build, name: str, source: FloatGraphs, origin: Origin) -> bytes:
    made = convert(name, source)
    graphs = {stage: described(graph, at.model, stage, name) for stage, graph in made.graphs.items()}
    if at.options.merged:
        merged = merged_from_stages(source.stages, made.graphs)
        graphs[MERGED] = described(merged, at.model, MERGED, name)
    drawings = sum(len(batch.prompts) for batch in source.batches)
    files = calibration_files(origin, made.ranges, drawings) if made.ranges else {}
    return packed({**graphs, **files, NOTES_FILE: json.dumps(made.notes).encode()})


def described(graph: bytes, model: StagedModel, stage: str, precision: str) -> bytes:
    """The graph with its producer and metadata: model, stage, precision, checkpoint."""
    import onnx

    from textual_vision.export.to_onnx import check

    proto = onnx.load_from_string(graph)
    proto.producer_name, proto.producer_version = "textual-vision", versions()["textual-vision"]
    proto.graph.name = stage
    about = {"model": model.name, "stage": stage, "precision": precision, "checkpoint": model.digest}
    onnx.helper.set_model_props(proto, about)
    check(proto)
    data: bytes = proto.SerializeToString()
    return data


def _backends(options: BuildOptions, precisions: Sequence[str]) -> tuple[str, ...]:
    """Those that graphs of the precisions are compared by, the one whose times are told first."""
    reference = options.reference and not set(REFERENCE_PRECISIONS).isdisjoint(precisions)
    return (*usable_backends(), *([REFERENCE_BACKEND] if reference else []))


def _result(
    at: _Build, folder: Path, precisions: tuple[PrecisionResult, ...], rewrites: tuple[RewriteResult, ...]
) -> BuildResult:
    return BuildResult(
        bundle=str(folder),
        name=at.model.name,
        verdict=FAIL if any(p.verdict == FAIL for p in precisions) else PASS,
        precisions=precisions,
        rewrites=rewrites,
        steps=tuple(at.steps.timings),
        samples=at.options.samples,
        seed=at.options.seed,
        opset=at.options.opset,
        backends=_backends(at.options, at.options.precisions),
        versions=versions(),
    )
