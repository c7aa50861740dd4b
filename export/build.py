"""From a checkpoint to a bundle: export, rewrite, convert, compare, write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from textual_vision.export.bundle import check_place, write_bundle
from textual_vision.export.contents import bundle_contents
from textual_vision.export.measure import median_milliseconds, node_count, usable_backends
from textual_vision.export.parity import BUDGETS, open_sessions, parity_of, verdict_of
from textual_vision.export.precision import FloatGraphs, PrecisionGraphs, check_precision, convert
from textual_vision.export.results import FAIL, PASS, BuildResult, PrecisionResult, StageGraph
from textual_vision.export.rewrites import rewritten
from textual_vision.export.samples import (
    PROMPTS,
    Batch,
    batches_from_bytes,
    bytes_from_batches,
    reference_batches,
)
from textual_vision.export.stages import StagedModel, load_model
from textual_vision.export.steps import Steps, Tell, packed, unpacked, versions
from textual_vision.export.to_onnx import ExportOptions, check_opset, onnx_from_stage
from textual_vision.runtime.errors import ParityError, UsageError
from textual_vision.runtime.manifest import BatchProfile

NOTES_FILE = "notes.json"
TARGETS = ("cpu", "tensorrt")


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What `tv-export build` can be told; see its help."""

    precisions: tuple[str, ...] = ("fp32",)
    opset: int = 20
    batch: BatchProfile = field(default_factory=lambda: BatchProfile(min=1, opt=1, max=8))
    tokens: int | None = None
    samples: int = 32
    seed: int = 0
    prompts: tuple[str, ...] = PROMPTS
    target: str = "cpu"
    no_rewrite: tuple[str, ...] = ()
    force: bool = False
    allow_failing: bool = False
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class _Build:
    """A build under way."""

    model: StagedModel
    options: BuildOptions
    steps: Steps


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
    at = _Build(model=load_model(source), options=options, steps=Steps(cache, tell))
    batches = _reference(at)
    floats = _float_graphs(at, batches)
    made = {name: _precision(at, name, floats) for name in options.precisions}
    precisions = tuple(_compared(at, name, graphs, batches) for name, graphs in made.items())
    result = _result(at, folder, precisions)
    if result.verdict == FAIL and not options.allow_failing:
        raise _failure(precisions)
    graphs = {name: one.graphs for name, one in made.items()}
    manifest, files = bundle_contents(at.model, result, graphs, batches, options.batch)
    at.steps.timed("write the bundle", lambda: write_bundle(folder, manifest, files))
    at.steps.prune()
    return _result(at, folder, precisions)


def check_options(options: BuildOptions) -> None:
    """UsageError when the options make no sense, before any work is done."""
    check_opset(options.opset)
    for name in options.precisions:
        check_precision(name)
    if not options.precisions:
        raise UsageError("no precision", "give at least one: --precision fp32")
    if options.target not in TARGETS:
        raise UsageError(f"unknown target {options.target!r}", f"there are: {', '.join(TARGETS)}")
    batch = options.batch
    if not 1 <= batch.min <= batch.opt <= batch.max:
        problem = f"batch profile {batch.min},{batch.opt},{batch.max} is out of order"
        raise UsageError(problem, "give MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX: --batch 1,1,8")
    if options.samples < 2:
        raise UsageError(f"{options.samples} samples", "compare on 2 or more: --samples 32")


def _reference(at: _Build) -> tuple[Batch, ...]:
    options = at.options

    def work() -> bytes:
        return bytes_from_batches(
            reference_batches(at.model, options.prompts, samples=options.samples, seed=options.seed)
        )

    depends = [at.model.digest, options.prompts, options.samples, options.seed]
    return batches_from_bytes(at.steps.run("draw the reference", depends, work))


def _float_graphs(at: _Build, batches: Sequence[Batch]) -> FloatGraphs:
    fp32 = {}
    for stage in at.model.stages:
        options = ExportOptions(
            opset=at.options.opset, tokens=at.options.tokens, max_tokens=at.model.text.max_tokens
        )
        depends = [at.model.digest, stage.name, options.opset, options.tokens]
        graph = at.steps.run(
            f"export {stage.name}",
            depends,
            lambda stage=stage, options=options: onnx_from_stage(  # type: ignore[misc]
                stage, batches[0].tensors, options
            ).SerializeToString(),
        )
        fp32[stage.name] = at.steps.run(
            f"rewrite {stage.name}",
            [graph],
            lambda graph=graph: rewritten(graph),  # type: ignore[misc]
        )
    specs = tuple(stage.spec for stage in at.model.stages)
    return FloatGraphs(stages=specs, fp32=fp32, fp16={}, batches=batches, target=at.options.target)


def _precision(at: _Build, name: str, source: FloatGraphs) -> PrecisionGraphs:
    def work() -> bytes:
        made = convert(name, source)
        return packed({**made.graphs, NOTES_FILE: json.dumps(made.notes).encode()})

    depends = [name, source.fp32, source.fp16, source.target, bytes_from_batches(source.batches)]
    files = unpacked(at.steps.run(f"make {name}", depends, work))
    return PrecisionGraphs(notes=json.loads(files.pop(NOTES_FILE)), graphs=files)


def _compared(at: _Build, name: str, made: PrecisionGraphs, batches: Sequence[Batch]) -> PrecisionResult:
    specs = [stage.spec for stage in at.model.stages]
    parity = []
    for backend in usable_backends():
        sessions = open_sessions(made.graphs, backend)
        at.steps.timed(
            f"compare {name} by {backend}",
            lambda sessions=sessions, backend=backend: parity.extend(  # type: ignore[misc]
                parity_of(specs, sessions, batches, budget=BUDGETS[name], backend=backend)
            ),
        )
    return PrecisionResult(
        precision=name,
        graphs=_stage_graphs(name, made.graphs, batches, at.model),
        parity=tuple(parity),
        verdict=verdict_of(parity),
        notes=made.notes,
    )


def _stage_graphs(
    name: str, graphs: Mapping[str, bytes], batches: Sequence[Batch], model: StagedModel
) -> tuple[StageGraph, ...]:
    backend = usable_backends()[0]
    sessions = open_sessions(graphs, backend)
    return tuple(
        StageGraph(
            stage=stage.name,
            file=f"onnx/{name}/{stage.name}.onnx",
            bytes=len(graphs[stage.name]),
            nodes=node_count(graphs[stage.name]),
            milliseconds=median_milliseconds(sessions[stage.name], stage.spec, batches[0]),
            backend=backend,
        )
        for stage in model.stages
    )


def _result(at: _Build, folder: Path, precisions: tuple[PrecisionResult, ...]) -> BuildResult:
    return BuildResult(
        bundle=str(folder),
        name=at.model.name,
        verdict=FAIL if any(p.verdict == FAIL for p in precisions) else PASS,
        precisions=precisions,
        rewrites=(),
        steps=tuple(at.steps.timings),
        samples=at.options.samples,
        seed=at.options.seed,
        opset=at.options.opset,
        backends=usable_backends(),
        versions=versions(),
    )


def _failure(precisions: Sequence[PrecisionResult]) -> ParityError:
    reasons = [
        f"{result.precision} {one.stage} ({one.mode}, {one.backend}): {one.reason}"
        for result in precisions
        for one in result.parity
        if one.verdict == FAIL
    ]
    problem = f"the graphs do not draw what the trained model draws: {reasons[0]}"
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return ParityError(
        problem + more, "nothing was written; --allow-failing writes the bundle marked as failing"
    )
