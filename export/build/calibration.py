"""Choose a build's calibration prompts, report their coverage, and write the ranges to the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from textual_vision.calibration.cache import (
    SCHEMA_VERSION,
    Calibration,
    Origin,
    TensorRange,
    bytes_from_calibration,
    read_cache,
)
from textual_vision.calibration.coverage import coverage_of, rows_visited, warning_about_few_rows
from textual_vision.calibration.prompts import choose_for_coverage, warning_about_few_prompts
from textual_vision.calibration.ranges import AUTO
from textual_vision.calibration.tensorrt_cache import cache_from_scales
from textual_vision.export.model.batch import ReferenceBatch, is_codes
from textual_vision.export.model.reference_batches import reference_batches
from textual_vision.export.model.stage import StagedModel
from textual_vision.runtime.errors import UsageError

FOLDER = "calibration"
CALIBRATION_PROMPTS = 64  # the number of prompts in `model.prompts.CALIBRATED`
LEAST_PROMPTS = 8
USUAL_PIXELS, USUAL_STEPS = 128 * 128, 8  # of a picture, for which 64 prompts are taken
CHUNK_PROMPTS = 64  # generated at a time while prompts are chosen, to bound the memory
TENSORRT_VERSION = "10.3.0"  # written in the first line of TensorRT's calibration cache


def calibration_count(model: StagedModel, asked: int | None) -> int:
    """Return how many prompts to calibrate on: as `asked`, or so many that pictures give enough values.

    A large picture has as many values as several small ones, and a loop gives as many as it has steps.
    """
    if asked is not None:
        return asked
    pixels = model.image.height * model.image.width
    steps = max((loop.steps for loop in model.loops), default=1)
    values = max(1.0, pixels / USUAL_PIXELS, steps / USUAL_STEPS)
    return max(LEAST_PROMPTS, round(CALIBRATION_PROMPTS / values))


def choose_prompts(model: StagedModel, prompts: Sequence[str], *, count: int, seed: int) -> list[int]:
    """Return the indices of `count` prompts that together visit many rows of every codebook, best first.

    PyTorch generates a picture of every prompt, with the seeds `seed`, `seed + 1`, …
    """
    specs = [stage.spec for stage in model.stages]
    rows = []
    for start in range(0, len(prompts), CHUNK_PROMPTS):
        part = prompts[start : start + CHUNK_PROMPTS]
        for batch in reference_batches(model, part, samples=len(part), seed=seed + start, margins=False):
            for index in range(len(batch.prompts)):
                alone = {name: value[index : index + 1] for name, value in batch.tensors.items()}
                rows.append(rows_visited(specs, model.tables, alone))
    return choose_for_coverage(rows, count)


def calibration_notes(
    model: StagedModel, batches: Sequence[ReferenceBatch], *, offered: int, ranges: str
) -> dict[str, object]:
    """Return int8's notes on its calibration: prompts used and `offered`, codebook rows visited, warnings."""
    prompts = sum(len(batch.prompts) for batch in batches)
    few = "" if prompts >= calibration_count(model, None) else warning_about_few_prompts(prompts)
    specs = [stage.spec for stage in model.stages]
    coverage = coverage_of(specs, model.tables, [batch.tensors for batch in batches])
    warnings = [few, *(warning_about_few_rows(table) for table in coverage)]
    if not coverage and any(is_codes(tensor) for spec in specs for tensor in spec.outputs):
        warnings.append("the model declares no codebook sizes, so the coverage of the prompts is unknown")
    tables = [
        {
            "tensor": table.tensor,
            "rows": table.rows,
            "visited": table.visited,
            "never": spans_of_rows(table.never),
        }
        for table in coverage
    ]
    kept = [text for text in warnings if text]
    return {"prompts": prompts, "offered": offered, "ranges": ranges, "tables": tables, "warnings": kept}


def spans_of_rows(rows: Sequence[int]) -> str:
    """Return ascending numbers as spans, such as "0-3,7,9-11"."""
    if not len(rows):
        return ""
    numbers = np.asarray(rows, np.int64)
    spans = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ",".join(f"{span[0]}" if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)


def calibration_files(
    origin: Origin, ranges: Mapping[str, Mapping[str, TensorRange]], samples: int
) -> dict[str, bytes]:
    """Return our calibration cache and TensorRT's (for versions up to 10), by path in the bundle.

    TensorRT's cache holds the tensors of all stages; a tensor of several stages gets their largest scale.
    """
    plain = {stage: dict(found) for stage, found in ranges.items()}
    calibration = Calibration(schema_version=SCHEMA_VERSION, origin=origin, samples=samples, ranges=plain)
    scales: dict[str, float] = {}
    for stage in plain:
        for tensor, scale in calibration.scales(stage).items():
            scales[tensor] = max(scale, scales.get(tensor, 0.0))
    return {
        f"{FOLDER}/{origin.digest}.json": bytes_from_calibration(calibration),
        f"{FOLDER}/{origin.digest}.cache": cache_from_scales(scales, TENSORRT_VERSION),
    }


def ranges_from_cache(path: Path, origin: Origin, method: str) -> dict[str, dict[str, TensorRange]]:
    """Return the ranges of the cache at `path` by stage and tensor.

    Raises what `read_cache` raises unless the cache was made from `origin`, and UsageError unless its ranges
    were found by `method` (or `method` is AUTO).
    """
    ranges = read_cache(path, origin).ranges
    methods = sorted({found.method for stage in ranges.values() for found in stage.values()})
    if method != AUTO and methods != [method]:
        problem = f"{path} holds ranges of the method {', '.join(methods)}, not {method}"
        hint = "leave out --calibration-method to use them, or --ranges to calibrate again"
        raise UsageError(problem, hint)
    return ranges
