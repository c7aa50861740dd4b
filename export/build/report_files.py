"""Make the report of a build, and the command line that repeats it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from textual_vision.calibration.prompts import RANDOM
from textual_vision.calibration.ranges import AUTO
from textual_vision.export.build.options import BuildOptions
from textual_vision.export.build.preparation import BuildContext
from textual_vision.export.bundle.model_card import condition_in_words
from textual_vision.export.families.registry import family_source
from textual_vision.export.report.page import ReportSource, report_files
from textual_vision.export.results import BuildResult
from textual_vision.runtime.manifest import Manifest


def build_report(
    context: BuildContext,
    manifest: Manifest,
    result: BuildResult,
    graphs: Mapping[str, Mapping[str, bytes]],
    command: str,
) -> dict[str, bytes]:
    """Return report/index.html and report/report.json by their path in the bundle."""
    model, image = context.model, context.model.image
    source = ReportSource(
        result=dataclasses.replace(result, bundle=Path(result.bundle).name),  # no path of this machine
        program=model.program,
        graphs=graphs,
        batches=context.batches,
        about={
            "picture": f"{image.width} × {image.height} pixels",
            "condition": condition_in_words(model),
            "license": model.license,
            "checkpoint": model.digest,
        },
        command=command,
        warnings=manifest.warnings,
        sessions=context.comparisons.sessions,
        agreement=context.comparisons.agreement(graphs),
    )
    return report_files(source)


def build_command(source: str, folder: Path, options: BuildOptions) -> str:
    """Return the command line that repeats the build; of paths it has the last part only."""
    words = ["tv-export", "build", *_source_arguments(source), "-o", folder.name]
    for precision in options.precisions:
        words += ["--precision", precision]
    return shlex.join([*words, *_arguments(options)])


def _source_arguments(source: str) -> list[str]:
    if (published := family_source(source)) is None:
        return [Path(source).name]
    options = [word for option in published.options for word in ("--family-option", option)]
    return ["--family", published.name, *options, *(path.name for path in published.paths)]


def _arguments(options: BuildOptions) -> Iterator[str]:
    batch = options.batch_profile
    yield from ("--opset", str(options.opset), "--batch-profile", f"{batch.min},{batch.opt},{batch.max}")
    yield from ("--samples", str(options.samples), "--seed", str(options.seed), "--target", options.target)
    if options.prompt_length is not None:
        yield from ("--prompt-length", str(options.prompt_length))
    if options.int8_tolerance is not None:
        yield from ("--int8-tolerance", options.int8_tolerance)
    if options.calibration_random:
        yield from ("--calibration-prompts", RANDOM)
    if options.calibration_count is not None:
        yield from ("--calibration-count", str(options.calibration_count))
    if options.ranges is not None:
        yield from ("--ranges", options.ranges.name)
    if options.calibration_method != AUTO:
        yield from ("--calibration-method", options.calibration_method)
    for rewrite in options.no_rewrite:
        yield from ("--no-rewrite", rewrite)
    if options.reference:
        yield "--reference"
    if not options.merged:
        yield "--no-merged"
    if options.allow_failing:
        yield "--allow-failing"
