"""From a checkpoint to a bundle: export, rewrite, convert, merge, compare, write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from textual_vision.calibration.prompts import random_prompts
from textual_vision.export.build.calibration import chosen_prompts
from textual_vision.export.build.comparisons import start_comparisons
from textual_vision.export.build.float_graphs import start_stage_exports
from textual_vision.export.build.float_workers import StageExportSpec
from textual_vision.export.build.options import BuildOptions, check_options
from textual_vision.export.build.precisions import BuildContext, floats_of, precision_of
from textual_vision.export.build.report_files import command_of, files_of_report
from textual_vision.export.bundle.contents import bundle_contents
from textual_vision.export.bundle.writer import check_place, write_bundle
from textual_vision.export.host.gc_tuning import gc_frozen
from textual_vision.export.host.progress import ProgressCallback, ignore_progress
from textual_vision.export.host.step_cache import StepCache
from textual_vision.export.host.versions import versions
from textual_vision.export.model.batch import ReferenceBatch, batches_from_bytes, bytes_from_batches
from textual_vision.export.model.loading import model_of
from textual_vision.export.model.reference_batches import BATCH_SIZE, reference_batches
from textual_vision.export.parity.onnx_reference import REFERENCE_BACKEND, REFERENCE_PRECISIONS
from textual_vision.export.parity.verdict import failure_of
from textual_vision.export.results import FAIL, PASS, BuildResult, PrecisionResult, RewriteResult
from textual_vision.export.sessions.opening import usable_backends

CALIBRATION_SEED = 1 << 32  # calibration draws other noise than the comparison


@gc_frozen()
def build(
    source: str,
    folder: Path,
    options: BuildOptions,
    *,
    cache: Path | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> BuildResult:
    """Export the model at `source` (see `load_model`) into the bundle `folder`.

    `cache` None keeps no steps. Raises UsageError (options that contradict each other, no such model, an
    operator that cannot be exported), IntegrityError (a damaged checkpoint), OSError, and ParityError when a
    precision is outside its budget: nothing is written then, unless `allow_failing`.
    """
    check_options(options)
    check_place(folder, force=options.force)
    context = BuildContext(
        model=model_of(source, options.prompt_length), options=options, steps=StepCache(cache, on_progress)
    )
    task = StageExportSpec(
        source=source,
        opset=options.opset,
        tokens=options.prompt_length,
        target=options.target,
        without=options.no_rewrite,
    )
    with start_stage_exports(context.model, task, context.steps, partial(_example, context)) as begun:
        batches = _drawn(
            context, "draw the reference", options.prompts, options.samples, options.seed, margins=True
        )
        calibration = _calibration(context) if set(options.precisions) - {"fp32"} else ()
        floats, parts = floats_of(context, begun, calibration)
    rewrites = tuple(one for stage in context.model.stages for one in floats[stage.name].rewrites)
    with start_comparisons(context.model, batches, context.steps) as comparisons:
        made = {}
        for name in options.precisions:
            made[name] = precision_of(context, name, floats, calibration, parts[name])
            comparisons.submit(name, made[name], reference=options.reference)
        del floats, parts
        precisions = comparisons.results()
        result = _result(context, folder, precisions, rewrites)
        if result.verdict == FAIL and not options.allow_failing:
            raise failure_of(precisions)
        graphs = {name: one.graphs for name, one in made.items()}
        manifest, files = bundle_contents(context.model, result, graphs, batches, options.batch_profile)
        files.update({path: data for one in made.values() for path, data in one.files.items()})
        command = command_of(source, folder, options)
        sessions = comparisons.sessions
        work = partial(files_of_report, context.model, manifest, result, graphs, batches, command, sessions)
        files.update(context.steps.timed("draw the report", work))
    context.steps.timed("write the bundle", lambda: write_bundle(folder, manifest, files))
    context.steps.prune()
    return _result(context, folder, precisions, rewrites)


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


def _drawn(
    context: BuildContext, name: str, texts: tuple[str, ...], samples: int, seed: int, *, margins: bool
) -> tuple[ReferenceBatch, ...]:
    def work() -> bytes:
        batches = reference_batches(context.model, texts, samples=samples, seed=seed, margins=margins)
        return bytes_from_batches(batches)

    depends = [context.model.fingerprint, texts, samples, seed, context.options.prompt_length, margins]
    return batches_from_bytes(context.steps.run(name, depends, work))


def _example(context: BuildContext) -> ReferenceBatch:
    """Inputs to trace and to time graphs with."""
    options = context.options
    count = min(BATCH_SIZE, options.samples)
    return reference_batches(context.model, options.prompts, samples=count, seed=options.seed, margins=False)[
        0
    ]


def _calibration(context: BuildContext) -> tuple[ReferenceBatch, ...]:
    """Drawings of the prompts to calibrate on; of more than are wanted, those that visit the most rows."""
    options, texts = context.options, context.options.calibration_prompts
    seed = options.seed + CALIBRATION_SEED
    if options.calibration_random:
        texts = random_prompts(context.model.tokenizer, options.calibration_count, options.seed)
    if len(texts) > options.calibration_count:
        count = options.calibration_count

        def work() -> bytes:
            chosen = chosen_prompts(context.model, texts, count=count, seed=seed)
            return json.dumps(chosen).encode()

        depends = [context.model.fingerprint, texts, count, seed, options.prompt_length]
        chosen = json.loads(context.steps.run("choose prompts to calibrate on", depends, work))
        texts = tuple(texts[index] for index in chosen)
    return _drawn(context, "draw to calibrate", texts, len(texts), seed, margins=False)


def _backends(options: BuildOptions, precisions: Sequence[str]) -> tuple[str, ...]:
    """Those that graphs of the precisions are compared by, the one whose times are told first."""
    reference = options.reference and not set(REFERENCE_PRECISIONS).isdisjoint(precisions)
    return (*usable_backends(), *([REFERENCE_BACKEND] if reference else []))


def _result(
    context: BuildContext,
    folder: Path,
    precisions: tuple[PrecisionResult, ...],
    rewrites: tuple[RewriteResult, ...],
) -> BuildResult:
    return BuildResult(
        bundle=str(folder),
        name=context.model.name,
        verdict=FAIL if any(p.verdict == FAIL for p in precisions) else PASS,
        precisions=precisions,
        rewrites=rewrites,
        steps=tuple(context.steps.timings),
        seconds=context.steps.seconds,
        samples=context.options.samples,
        seed=context.options.seed,
        opset=context.options.opset,
        backends=_backends(context.options, context.options.precisions),
        versions=versions(),
    )
