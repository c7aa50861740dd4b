"""The calibration of a build: which prompts, what they visited, and the ranges as files of the bundle."""

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
from textual_vision.calibration.prompts import choose_for_coverage, warning_about_few_prompts
from textual_vision.calibration.ranges import AUTO
from textual_vision.calibration.samples import coverage_of, rows_visited, warning_about_few_rows
from textual_vision.calibration.tensorrt_cache import cache_from_scales
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.reference_batches import reference_batches
from textual_vision.export.model.stage import StagedModel
from textual_vision.runtime.errors import UsageError

FOLDER = "calibration"
CALIBRATION_PROMPTS = 64  # as many as there are of our own
CHUNK_PROMPTS = 64  # drawn at a time when prompts are chosen: only the rows that they visit are kept
TENSORRT_VERSION = "10.3.0"  # in the first line of TensorRT's own cache


def chosen_prompts(model: StagedModel, prompts: Sequence[str], *, count: int, seed: int) -> list[int]:
    """Which `count` of the prompts to calibrate on so that they visit many rows of every codebook.

    Indices in the order of choice; drawn by PyTorch with the seeds from `seed` on.
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


def notes_of_calibration(
    model: StagedModel, batches: Sequence[ReferenceBatch], offered: int, ranges: str
) -> dict[str, object]:
    """What the notes of int8 tell: prompts used of those `offered`, rows visited and not, and warnings."""
    prompts = sum(len(batch.prompts) for batch in batches)
    specs = [stage.spec for stage in model.stages]
    coverage = coverage_of(specs, model.tables, [batch.tensors for batch in batches])
    warnings = [warning_about_few_prompts(prompts), *(warning_about_few_rows(table) for table in coverage)]
    if not coverage:
        warnings.append("the model names no codebooks: how much of them the prompts visit is not known")
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
    """Rising numbers in short: 0-3,7,9-11."""
    if not len(rows):
        return ""
    numbers = np.asarray(rows, np.int64)
    spans = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ",".join(f"{span[0]}" if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)


def calibration_files(
    origin: Origin, ranges: Mapping[str, Mapping[str, TensorRange]], drawings: int
) -> dict[str, bytes]:
    """By path in the bundle: our cache, and TensorRT's own for versions up to 10.

    The latter holds the tensors of all stages; of one that two stages share, the wider scale.
    """
    plain = {stage: dict(found) for stage, found in ranges.items()}
    calibration = Calibration(schema_version=SCHEMA_VERSION, origin=origin, drawings=drawings, ranges=plain)
    scales: dict[str, float] = {}
    for stage in plain:
        for tensor, scale in calibration.scales(stage).items():
            scales[tensor] = max(scale, scales.get(tensor, 0.0))
    return {
        f"{FOLDER}/{origin.digest}.json": bytes_from_calibration(calibration),
        f"{FOLDER}/{origin.digest}.cache": cache_from_scales(scales, TENSORRT_VERSION),
    }


def ranges_from_cache(path: Path, origin: Origin, method: str) -> dict[str, dict[str, TensorRange]]:
    """The ranges of the cache at `path`, which must come from `origin` and, unless AUTO, from `method`.

    Raises what `read_cache` raises, and UsageError when the ranges were found by another method.
    """
    ranges = read_cache(path, origin).ranges
    methods = sorted({found.method for stage in ranges.values() for found in stage.values()})
    if method != AUTO and methods != [method]:
        problem = f"{path} holds ranges by {', '.join(methods)}, not by {method}"
        raise UsageError(problem, "leave out --calibration-method, or --ranges to calibrate anew")
    return ranges
