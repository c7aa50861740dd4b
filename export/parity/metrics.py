"""Metrics of one tensor against its reference: of codes, floats or pictures, by dtype."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textual_vision.export.model.batch import STEP, Array, ReferenceBatch
from textual_vision.export.results import CodeMetrics, FloatMetrics, ImageMetrics, TensorMetrics
from textual_vision.runtime.manifest import TensorSpec

Float64 = npt.NDArray[np.float64]

PEAK = 255.0
SSIM_SIGMA, SSIM_WINDOW = 1.5, 11
SSIM_C1, SSIM_C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


@dataclass(frozen=True, kw_only=True)
class TensorPair:
    """One tensor of many samples: the reference's values, the values found, and the margins of codes."""

    dtype: str
    expected: Array
    found: Array
    margins: npt.NDArray[np.float32] | None = None
    steps: npt.NDArray[np.float32] | None = (
        None  # in which each code was chosen, conditioned on the steps before
    )


def tensor_pair(
    tensor: TensorSpec,
    batches: Sequence[ReferenceBatch],
    outputs: Sequence[Mapping[str, Array]],
    chosen: Sequence[npt.NDArray[np.bool_]],
) -> TensorPair:
    """Return a tensor of the `chosen` samples of all batches, without the padding of prompts."""
    expected, found, margins, steps = [], [], [], []
    for batch, output, rows in zip(batches, outputs, chosen, strict=True):
        keep: npt.NDArray[np.bool_] = rows
        if len(tensor.shape) > 1 and tensor.shape[1] == "tokens":
            keep = (batch.tensors["attention_mask"] == 1) & rows[:, None]
        expected.append(batch.tensors[tensor.name][keep])
        found.append(output[tensor.name][keep])
        if tensor.name in batch.margins:
            margins.append(batch.margins[tensor.name][keep])
        if tensor.name + STEP in batch.margins:
            steps.append(batch.margins[tensor.name + STEP][keep])
    return TensorPair(
        dtype=tensor.dtype,
        expected=np.concatenate(expected),
        found=np.concatenate(found),
        margins=np.concatenate(margins) if margins else None,
        steps=np.concatenate(steps) if steps else None,
    )


def metrics_of(pair: TensorPair, near_tie_margin: float) -> TensorMetrics:
    """Return the metrics of pictures for uint8, of floats for float dtypes, of codes otherwise."""
    if pair.dtype == "uint8":
        return image_metrics(pair.expected.astype(np.uint8), pair.found.astype(np.uint8))
    if pair.dtype.startswith("float"):
        return float_metrics(pair.expected, pair.found)
    differs = pair.expected != pair.found
    ties = np.zeros_like(differs) if pair.margins is None else differs & (pair.margins < near_tie_margin)
    propagated = 0
    if pair.steps is not None:
        # Differences after a sample's first one propagate from it, if that was a near tie.
        apart = tuple(range(1, differs.ndim))
        first = np.where(ties, pair.steps, np.inf).min(axis=apart, keepdims=True)
        earliest = np.where(differs, pair.steps, np.inf).min(axis=apart, keepdims=True)
        propagated = int((differs & ~ties & (pair.steps > first) & (first == earliest)).sum())
    return CodeMetrics(
        compared=differs.size,
        equal=int((~differs).sum()),
        near_ties=int(ties.sum()),
        propagated=propagated,
    )


def float_metrics(expected: Array, found: Array) -> FloatMetrics:
    """Compare two tensors of one shape and any float dtype; NaN makes every metric NaN, which fails."""
    a, b = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    error = np.abs(a - b)
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return FloatMetrics(
        max_abs=float(error.max(initial=0.0)),
        mean_abs=float(error.mean()) if error.size else 0.0,
        cosine=float(a @ b) / norm if norm != 0.0 else float(np.array_equal(a, b)),
    )


def image_metrics(expected: npt.NDArray[np.uint8], found: npt.NDArray[np.uint8]) -> ImageMetrics:
    """Compare pictures, uint8 (N, H, W, 3)."""
    error = expected.astype(np.float64) - found.astype(np.float64)
    squares = (error**2).mean(axis=(1, 2, 3))
    return ImageMetrics(
        compared=len(expected),
        psnr_db=psnr(expected, found),
        worst_psnr_db=_decibels(float(squares.max(initial=0.0))),
        ssim=float(np.mean([ssim(a, b) for a, b in zip(expected, found, strict=True)])),
        max_abs=int(np.abs(error).max(initial=0.0)),
    )


def psnr(expected: npt.NDArray[np.uint8], found: npt.NDArray[np.uint8]) -> float | None:
    """Return the PSNR over all pictures in dB; None for identical ones."""
    error = expected.astype(np.float64) - found.astype(np.float64)
    return _decibels(float((error**2).mean(axis=(1, 2, 3)).mean()))


def _decibels(mean_square: float) -> float | None:
    return None if mean_square == 0.0 else 10.0 * math.log10(PEAK**2 / mean_square)


def ssim(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> float:
    """Return the structural similarity of two pictures (H, W, 3): the mean over windows and channels.

    It is 1 for equal pictures. Wang et al. 2004, eq. 13, with its Gaussian window of 11 and sigma 1.5 (a
    smaller window when the picture is smaller).
    """
    if np.array_equal(first, second):
        return 1.0
    a, b = first.astype(np.float64), second.astype(np.float64)
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a, variance_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (mean_a**2 + mean_b**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variance_a + variance_b + SSIM_C2)
    return float((luminance * structure).mean())


def _blur(x: Float64) -> Float64:
    """Blur (H, W, C) by a separable Gaussian, where the entire window fits."""
    for axis in (0, 1):
        size = min(SSIM_WINDOW, x.shape[axis])
        offsets = np.arange(size) - (size - 1) / 2
        window = np.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
        windows = np.lib.stride_tricks.sliding_window_view(x, size, axis=axis)
        x = windows @ (window / window.sum())
    return x
