"""Build a bundle from a checkpoint: prepare, export, convert, compare, require a pass, write."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

from textual_vision.export.build.conversions import convert_precisions, export_graphs
from textual_vision.export.build.options import BuildOptions, check_options
from textual_vision.export.build.plan import backends_of_options
from textual_vision.export.build.preparation import BuildContext, prepare
from textual_vision.export.build.report_files import build_command, build_report
from textual_vision.export.bundle.contents import bundle_contents
from textual_vision.export.bundle.writer import check_place, write_bundle
from textual_vision.export.host.gc_tuning import gc_frozen
from textual_vision.export.host.step_cache import StepCache
from textual_vision.export.host.versions import versions
from textual_vision.export.model.running import texts_of
from textual_vision.export.parity.verdict import parity_error
from textual_vision.export.precision.registry import PrecisionGraphs
from textual_vision.export.results import FAIL, PASS, BuildResult, RewriteResult
from textual_vision.runtime.isolation.trusted import trust_written
from textual_vision.runtime.manifest import Manifest
from textual_vision.runtime.progress import ProgressCallback, ignore_progress


@gc_frozen()
def build_bundle(
    source: str,
    folder: Path,
    options: BuildOptions,
    *,
    cache: Path | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> BuildResult:
    """Export the model at `source` to a bundle at `folder` and return what the build measured.

    `source` is what `load_model` takes. `cache` is the folder that keeps the results of steps for the next
    build, None keeps none. `on_progress` is called after each step.

    Raises UsageError (contradicting options, no such model, an operator that ONNX lacks), IntegrityError (a
    damaged checkpoint), OSError, and ParityError when a precision is outside its tolerance; then nothing is
    written, unless the options allow a failing bundle.
    """
    check_options(options)
    check_place(folder, force=options.force)
    with prepare(source, options, StepCache(cache, on_progress)) as context:
        graphs = export_graphs(context)
        variants = convert_precisions(context, graphs)
        result = compare(context, folder, graphs.rewrites)
        require_pass(result, options)
        manifest, files = bundle_files(context, result, variants, build_command(source, folder, options))
    trust_written(context.steps.timed("write the bundle", partial(write_bundle, folder, manifest, files)))
    context.steps.prune()
    return dataclasses.replace(
        result, steps=tuple(context.steps.timings), seconds=context.steps.seconds
    )  # with the last two steps


def compare(context: BuildContext, folder: Path, rewrites: tuple[RewriteResult, ...]) -> BuildResult:
    """Wait for the comparisons that `convert_precisions` submitted, and time the graphs."""
    precisions = context.comparisons.results()
    options = context.options
    return BuildResult(
        bundle=str(folder),
        name=context.model.name,
        example=texts_of(context.model, options.prompts, 1)[0],
        verdict=FAIL if any(one.verdict == FAIL for one in precisions) else PASS,
        precisions=precisions,
        rewrites=rewrites,
        steps=tuple(context.steps.timings),
        seconds=context.steps.seconds,
        samples=options.samples,
        seed=options.seed,
        opset=options.opset,
        backends=backends_of_options(options, options.precisions),
        versions=versions(),
    )


def require_pass(result: BuildResult, options: BuildOptions) -> None:
    """Raise ParityError when a comparison failed and the options do not allow that."""
    if result.verdict == FAIL and not options.allow_failing:
        raise parity_error(result.precisions)


def bundle_files(
    context: BuildContext, result: BuildResult, variants: dict[str, PrecisionGraphs], command: str
) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest and every other file by its path in the bundle: graphs, calibration, report."""
    graphs = {name: variant.graphs for name, variant in variants.items()}
    manifest, files = bundle_contents(
        context.model, result, graphs, context.batches, context.options.batch_profile
    )
    for variant in variants.values():
        files.update(variant.files)
    report = partial(build_report, context, manifest, result, graphs, command)
    files.update(context.steps.timed("write the report", report))
    return manifest, files
