"""Compare a stage's outputs with the reference's: pooled over all samples, and sample by sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textual_vision.export.model.batch import PICTURE_AXES, Array, ReferenceBatch, is_codes, words_of
from textual_vision.export.parity.metrics import metrics_of, tensor_pair
from textual_vision.export.parity.tolerance import NEAR_TIE_MARGIN, TOLERANCES, Tolerance
from textual_vision.export.precision.arithmetic import PRECISION_OF_ARITHMETIC
from textual_vision.export.results import CodeMetrics, FloatMetrics, ImageMetrics
from textual_vision.runtime.manifest import StageSpec, TensorSpec
from textual_vision.runtime.metrics import psnr_db

WINDOW = 8  # pixels, the side of the windows that are judged by themselves

Outputs = Sequence[Mapping[str, Array]]  # of each batch, a stage's outputs by name
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far a stage may differ, by its arithmetic.

    `tolerance` is the pooled one. The others apply to every single sample:

    - `relative_error`: the largest ‖found − expected‖ / ‖expected‖ of a float tensor.
    - `norm_ratio`: the largest |‖found‖ / ‖expected‖ − 1| of a float tensor.
    - `floor_db`: the least PSNR of a picture.
    - `window_db`: the least PSNR of a window of 8 × 8 pixels.
    - `tint`: the largest mean signed error of a color channel, in levels of 255.

    `pooled_tint` is the limit of the mean signed error over all pictures.
    """

    tolerance: Tolerance
    relative_error: float
    norm_ratio: float
    floor_db: float
    window_db: float
    tint: float
    pooled_tint: float


# Measured on the shipped model with ONNX Runtime and OpenVINO, with room for other processors: see
# docs/notes/2026-12-01-verification-limits.md.
LIMITS = {
    "float32": Limits(
        tolerance=TOLERANCES["fp32"],
        relative_error=1e-3,
        norm_ratio=1e-3,
        floor_db=50.0,
        window_db=40.0,
        tint=0.5,
        pooled_tint=0.1,
    ),
    "float16": Limits(
        tolerance=TOLERANCES["fp16"],
        relative_error=2e-2,
        norm_ratio=1e-2,
        floor_db=36.0,
        window_db=32.0,
        tint=0.5,
        pooled_tint=0.25,
    ),
    "int8": Limits(
        tolerance=TOLERANCES["int8"],
        relative_error=0.15,
        norm_ratio=0.05,
        floor_db=28.0,
        window_db=20.0,
        tint=4.0,
        pooled_tint=1.0,
    ),
}
assert LIMITS.keys() == PRECISION_OF_ARITHMETIC.keys()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result: `problems` in words, none when all is within the limits; the worst sample, if any.

    `worst` is the number of a batch and of its row.
    """

    problems: tuple[str, ...]
    figure: str
    worst: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class SampleProblem:
    """One value outside of its limit; `excess` orders problems of one kind."""

    kind: str
    text: str
    excess: float
    place: tuple[int, int]


def compare_samples(
    stage: StageSpec, batches: Sequence[ReferenceBatch], outputs: Outputs, limits: Limits
) -> Comparison:
    """Return the comparison of every sample, and the pooled signed error of pictures."""
    found: list[SampleProblem] = []
    for number, (batch, output) in enumerate(zip(batches, outputs, strict=True)):
        equal = equal_codes(stage, batch, output)
        for spec in stage.outputs:
            for row in range(len(batch.prompts)):
                if is_codes(spec) or not equal[row]:
                    continue
                found += _sample_problems(spec, batch, output, row, limits, (number, row))
    worst_of_kind = {one.kind: one for one in sorted(found, key=lambda one: one.excess)}
    problems = [one.text for one in worst_of_kind.values()]
    problems += _pooled_tint(stage, batches, outputs, limits)
    worst = max(found, key=lambda one: one.excess, default=None)
    return Comparison(
        problems=tuple(problems),
        figure=figure_of(stage, batches, outputs),
        worst=None if worst is None else worst.place,
    )


def figure_of(stage: StageSpec, batches: Sequence[ReferenceBatch], outputs: Outputs) -> str:
    """Return the pooled metrics of a stage's outputs in words."""
    rows = [np.ones(len(batch.prompts), bool) for batch in batches]
    parts = []
    for spec in stage.outputs:
        metrics = metrics_of(tensor_pair(spec, batches, outputs, rows), NEAR_TIE_MARGIN)
        if isinstance(metrics, CodeMetrics):
            parts.append(f"{spec.name}: {metrics.compared - metrics.equal} of {metrics.compared} differ")
        elif isinstance(metrics, ImageMetrics):
            worst = decibels_in_words(metrics.worst_psnr_db)
            parts.append(f"{spec.name}: {decibels_in_words(metrics.psnr_db)}, worst picture {worst}")
        elif isinstance(metrics, FloatMetrics):
            parts.append(f"{spec.name}: cosine {metrics.cosine:.6f}, largest error {metrics.max_abs:.1e}")
    return "; ".join(parts)


def decibels_in_words(value: float | None) -> str:
    """Return "38.2 dB", or "identical" for None."""
    return "identical" if value is None or math.isinf(value) else f"{value:.1f} dB"


def equal_codes(
    stage: StageSpec, batch: ReferenceBatch, output: Mapping[str, Array]
) -> npt.NDArray[np.bool_]:
    """Return for each sample whether all its codes equal the reference's; padding does not count."""
    same = np.ones(len(batch.prompts), bool)
    for spec in stage.outputs:
        if is_codes(spec):
            words = words_of(spec, batch)
            equal = np.equal(batch.tensors[spec.name], output[spec.name])
            equal |= ~words.reshape(*words.shape, *[1] * (equal.ndim - words.ndim))
            same &= equal.reshape(len(same), -1).all(1)
    return same


def window_db(expected: Images, found: Images) -> float:
    """Return the PSNR in dB of the worst window of 8 × 8 pixels of a picture (H, W, C)."""
    square = (expected.astype(np.float64) - found.astype(np.float64)) ** 2
    height, width = (max(1, size // WINDOW) for size in square.shape[:2])
    rows, columns = square.shape[0] // height, square.shape[1] // width
    cut = square[: height * rows, : width * columns]
    windows = cut.reshape(height, rows, width, columns, -1).mean((1, 3, 4))
    return psnr_db(float(windows.max()))


def tint_of(expected: Images, found: Images) -> float:
    """Return the largest mean signed error of a channel of a picture (H, W, C), in levels of 255."""
    error = found.astype(np.float64) - expected.astype(np.float64)
    return float(np.abs(error.mean((0, 1))).max())


def _sample_problems(
    spec: TensorSpec,
    batch: ReferenceBatch,
    output: Mapping[str, Array],
    row: int,
    limits: Limits,
    place: tuple[int, int],
) -> Iterator[SampleProblem]:
    expected, found = batch.tensors[spec.name][row], output[spec.name][row]
    where = f"(prompt {batch.prompts[row][:40]!r}, seed {batch.seeds[row]})"
    if spec.dtype == "uint8" and len(spec.shape) == PICTURE_AXES:
        values = _picture_values(expected.astype(np.uint8), found.astype(np.uint8), limits)
    else:
        words = words_of(spec, batch)
        keep = words[row] if words.ndim > 1 else ...
        values = _float_values(expected[keep], found[keep], limits)
    for kind, value, limit, excess in values:
        if excess > 0 or math.isnan(excess):
            text = f"{spec.name}: {kind} {value}, limit {limit} {where}"
            excess = math.inf if math.isnan(excess) else excess
            yield SampleProblem(kind=f"{spec.name} {kind}", text=text, excess=excess, place=place)


def _picture_values(expected: Images, found: Images, limits: Limits) -> Iterator[tuple[str, str, str, float]]:
    """Kind, value, limit, and the excess as a multiple of the limit."""
    square = float(((expected.astype(np.float64) - found.astype(np.float64)) ** 2).mean())
    whole, window = psnr_db(square), window_db(expected, found)
    tint = tint_of(expected, found)
    yield "worst picture", f"{whole:.1f} dB", f"{limits.floor_db:g} dB", 1 - whole / limits.floor_db
    yield "worst window", f"{window:.1f} dB", f"{limits.window_db:g} dB", 1 - window / limits.window_db
    yield "largest tint", f"{tint:.2f} levels", f"{limits.tint:g}", tint / limits.tint - 1


def _float_values(expected: Array, found: Array, limits: Limits) -> Iterator[tuple[str, str, str, float]]:
    a, b = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    if not np.isfinite(b).all() and np.isfinite(a).all():
        yield "values", f"{int((~np.isfinite(b)).sum())} not finite", "0", math.inf
        return
    norm = float(np.linalg.norm(a))
    if norm == 0.0:
        return
    error, ratio = float(np.linalg.norm(a - b)) / norm, float(np.linalg.norm(b)) / norm
    yield "relative error", f"{error:.2g}", f"{limits.relative_error:g}", error / limits.relative_error - 1
    yield "norm ratio", f"{ratio:.4f}", f"1 ± {limits.norm_ratio:g}", abs(ratio - 1) / limits.norm_ratio - 1


def _pooled_tint(
    stage: StageSpec, batches: Sequence[ReferenceBatch], outputs: Outputs, limits: Limits
) -> list[str]:
    problems = []
    for spec in stage.outputs:
        if spec.dtype != "uint8" or len(spec.shape) != PICTURE_AXES:
            continue
        errors = [
            out[spec.name].astype(np.float64)[keep] - batch.tensors[spec.name].astype(np.float64)[keep]
            for batch, out in zip(batches, outputs, strict=True)
            if (keep := equal_codes(stage, batch, out)).any()
        ]
        tint = np.concatenate(errors).mean((0, 1, 2)) if errors else np.zeros(1)
        if np.abs(tint).max() > limits.pooled_tint:
            shown = ", ".join(f"{one:+.2f}" for one in tint)
            limit = f"limit {limits.pooled_tint:g}"
            problems.append(f"{spec.name}: mean error by channel {shown} levels, {limit}")
    return problems
