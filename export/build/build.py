"""From a checkpoint to a bundle: export, rewrite, convert, merge, compare, write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from textual_vision.calibration.cache import read_cache
from textual_vision.calibration.prompts import random_prompts
from textual_vision.calibration.ranges import AUTO, check_method
from textual_vision.export.build.precisions import Build, floats_of, precision_of
from textual_vision.export.bundle.contents import bundle_contents
from textual_vision.export.bundle.writer import check_place, write_bundle
from textual_vision.export.build.comparisons import comparisons_begun
from textual_vision.export.build.float_graphs import floats_begun
from textual_vision.export.build.float_workers import FloatTask
from textual_vision.export.graph.opset import check_opset
from textual_vision.export.host.gc_tuning import collected_lately
from textual_vision.export.host.step_cache import Steps, Tell, versions
from textual_vision.export.int8.budget import parse_budget
from textual_vision.export.int8.calibration import CALIBRATION_PROMPTS, chosen_prompts
from textual_vision.export.model.batch import Batch, batches_from_bytes, bytes_from_batches
from textual_vision.export.model.prompts import CALIBRATED, COMPARED
from textual_vision.export.model.reference_batches import BATCH_SIZE, reference_batches
from textual_vision.export.model.stage import model_of
from textual_vision.export.parity.onnx_reference import REFERENCE_BACKEND, REFERENCE_PRECISIONS
from textual_vision.export.parity.verdict import failure_of
from textual_vision.export.passes.manager import check_rewrites
from textual_vision.export.precision.registry import check_precision
from textual_vision.export.build.report_files import command_of, files_of_report
from textual_vision.export.results import FAIL, PASS, BuildResult, PrecisionResult, RewriteResult
from textual_vision.export.sessions.timing import usable_backends
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.isolation.trusted import trust_written
from textual_vision.runtime.manifest import BatchProfile

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
    at = Build(model=model_of(source, options.tokens), options=options, steps=Steps(cache, tell))
    task = FloatTask(
        source=source,
        opset=options.opset,
        tokens=options.tokens,
        target=options.target,
        without=options.no_rewrite,
    )
    with floats_begun(at.model, task, at.steps, partial(_example, at)) as begun:
        batches = _drawn(
            at, "draw the reference", options.prompts, options.samples, options.seed, margins=True
        )
        calibration = _calibration(at) if set(options.precisions) - {"fp32"} else ()
        floats, parts = floats_of(at, begun, calibration)
    rewrites = tuple(one for stage in at.model.stages for one in floats[stage.name].rewrites)
    with comparisons_begun(at.model, batches, at.steps) as comparisons:
        made = {}
        for name in options.precisions:
            made[name] = precision_of(at, name, floats, calibration, parts[name])
            comparisons.begin(name, made[name], reference=options.reference)
        del floats, parts
        precisions = comparisons.results()
        result = _result(at, folder, precisions, rewrites)
        if result.verdict == FAIL and not options.allow_failing:
            raise failure_of(precisions)
        graphs = {name: one.graphs for name, one in made.items()}
        manifest, files = bundle_contents(at.model, result, graphs, batches, options.batch)
        files.update({path: data for one in made.values() for path, data in one.files.items()})
        command = command_of(source, folder, options)
        sessions = comparisons.sessions
        work = partial(files_of_report, at.model, manifest, result, graphs, batches, command, sessions)
        files.update(at.steps.timed("draw the report", work))
    trust_written(at.steps.timed("write the bundle", lambda: write_bundle(folder, manifest, files)))
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
    at: Build, name: str, texts: tuple[str, ...], samples: int, seed: int, *, margins: bool
) -> tuple[Batch, ...]:
    def work() -> bytes:
        batches = reference_batches(at.model, texts, samples=samples, seed=seed, margins=margins)
        return bytes_from_batches(batches)

    depends = [at.model.digest, texts, samples, seed, at.options.tokens, margins]
    return batches_from_bytes(at.steps.run(name, depends, work))


def _example(at: Build) -> Batch:
    """Inputs to trace and to time graphs with."""
    options = at.options
    count = min(BATCH_SIZE, options.samples)
    return reference_batches(at.model, options.prompts, samples=count, seed=options.seed, margins=False)[0]


def _calibration(at: Build) -> tuple[Batch, ...]:
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


def _backends(options: BuildOptions, precisions: Sequence[str]) -> tuple[str, ...]:
    """Those that graphs of the precisions are compared by, the one whose times are told first."""
    reference = options.reference and not set(REFERENCE_PRECISIONS).isdisjoint(precisions)
    return (*usable_backends(), *([REFERENCE_BACKEND] if reference else []))


def _result(
    at: Build, folder: Path, precisions: tuple[PrecisionResult, ...], rewrites: tuple[RewriteResult, ...]
) -> BuildResult:
    return BuildResult(
        bundle=str(folder),
        name=at.model.name,
        verdict=FAIL if any(p.verdict == FAIL for p in precisions) else PASS,
        precisions=precisions,
        rewrites=rewrites,
        steps=tuple(at.steps.timings),
        seconds=at.steps.seconds,
        samples=at.options.samples,
        seed=at.options.seed,
        opset=at.options.opset,
        backends=_backends(at.options, at.options.precisions),
        versions=versions(),
    )
