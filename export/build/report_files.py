"""The report as a step of a build: what the build knows, as the report wants it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from textual_vision.calibration.prompts import RANDOM
from textual_vision.calibration.ranges import AUTO
from textual_vision.export.build.calibration import CALIBRATION_PROMPTS
from textual_vision.export.build.options import BuildOptions
from textual_vision.export.bundle.model_card import prompt_size
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.report.page import Opener, ReportSource, report_files
from textual_vision.export.results import BuildResult
from textual_vision.runtime.manifest import Manifest


def files_of_report(
    model: StagedModel,
    manifest: Manifest,
    result: BuildResult,
    graphs: Mapping[str, Mapping[str, bytes]],
    batches: Sequence[ReferenceBatch],
    command: str,
    sessions: Opener,
) -> dict[str, bytes]:
    """report/index.html and report/report.json of a build, by their path in the bundle."""
    image = model.image
    source = ReportSource(
        result=dataclasses.replace(result, bundle=Path(result.bundle).name),  # a bundle tells of no place
        stages=tuple(stage.spec for stage in model.stages),
        graphs=graphs,
        batches=batches,
        about={
            "picture": f"{image.width} × {image.height} pixels",
            "prompt": prompt_size(model.text),
            "license": model.license,
            "checkpoint": model.digest,
        },
        command=command,
        warnings=manifest.warnings,
        sessions=sessions,
    )
    return report_files(source)


def command_of(source: str, folder: Path, options: BuildOptions) -> str:
    """The command line that builds the same again; of places only the last part is told."""
    words = ["tv-export", "build", Path(source).name, "-o", folder.name]
    for precision in options.precisions:
        words += ["--precision", precision]
    return shlex.join([*words, *_options(options)])


def _options(options: BuildOptions) -> Iterator[str]:
    batch = options.batch_profile
    yield from ("--opset", str(options.opset), "--batch-profile", f"{batch.min},{batch.opt},{batch.max}")
    yield from ("--samples", str(options.samples), "--seed", str(options.seed), "--target", options.target)
    if options.prompt_length is not None:
        yield from ("--prompt-length", str(options.prompt_length))
    if options.int8_tolerance is not None:
        yield from ("--int8-tolerance", options.int8_tolerance)
    if options.calibration_random:
        yield from ("--calibration-prompts", RANDOM)
    if options.calibration_count != CALIBRATION_PROMPTS:
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
