"""From a histogram of magnitudes to the threshold that becomes ±127.

minmax      the largest magnitude: nothing is clipped, and one outlier costs everything else its resolution
percentile  clips a fixed share of the values
entropy     the threshold whose 128 levels lose the least information about the distribution, by the
            Kullback-Leibler divergence (S. Migacz, "8-bit inference with TensorRT", GTC 2017)
mse         the threshold with the least expected squared error of rounding and clipping together

No one of them is best for all tensors, which is why `auto` tries them all where it matters: on the output of
the layers that read the tensor (see `textual_vision.export.int8.observer`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from textual_vision.calibration.histogram import BINS, MagnitudeHistogram
from textual_vision.runtime.errors import UsageError

LEVELS = 127  # of magnitude, besides zero
METHODS = ("minmax", "entropy", "percentile", "mse")
AUTO = "auto"
PERCENTILE = 99.99
FIRST_CANDIDATE = 128  # bins: fewer could not fill the levels
CANDIDATES = 160  # thresholds that are tried
SMOOTHING = 1e-4  # of a count, in bins that are empty after quantization but were not before

Float64 = npt.NDArray[np.float64]


def check_method(method: str) -> None:
    """UsageError unless `method` is one of METHODS or AUTO."""
    if method not in (*METHODS, AUTO):
        raise UsageError(f"unknown range method {method!r}", f"there are: {', '.join((AUTO, *METHODS))}")


def threshold_from_histogram(histogram: MagnitudeHistogram, method: str) -> float:
    """The magnitude that becomes 127, by `method` (one of METHODS).

    A tensor that never varied gets its one magnitude, or 1 where that is 0. Raises UsageError when the method
    is unknown or nothing was counted.
    """
    if method == AUTO:
        raise UsageError("auto is no method for one tensor alone", f"there are: {', '.join(METHODS)}")
    check_method(method)
    histogram.require_values()
    if histogram.is_constant:
        return histogram.largest or 1.0
    if method == "minmax":
        return histogram.largest
    if method == "percentile":
        return _percentile(histogram)
    edges = _candidates(histogram)
    counts = histogram.counts.astype(np.float64)
    if method == "entropy":
        losses = _divergences(counts, edges)
    else:
        losses = np.array([_squared_error(counts, int(edge)) for edge in edges])
    best = int(edges[int(np.argmin(losses))])
    return min(best * histogram.limit / BINS, histogram.largest)


def scale_from_threshold(threshold: float) -> float:
    """The float32 step of a symmetric int8 tensor."""
    return float(np.float32(threshold / LEVELS))


def _percentile(histogram: MagnitudeHistogram) -> float:
    below = np.cumsum(histogram.counts) + histogram.zeros
    edge = int(np.searchsorted(below, below[-1] * (PERCENTILE / 100))) + 1
    return min(edge * histogram.limit / BINS, histogram.largest)


def _candidates(histogram: MagnitudeHistogram) -> npt.NDArray[np.int64]:
    """Bins at whose end to try the threshold, up to the last bin in use."""
    last = int(np.flatnonzero(histogram.counts)[-1]) + 1
    return np.unique(np.linspace(min(FIRST_CANDIDATE, last), last, CANDIDATES).astype(np.int64))


def _squared_error(counts: Float64, edge: int) -> float:
    """Σ count · (x − quantized x)², x at the middle of its bin, in bins squared."""
    middle = np.arange(BINS) + 0.5
    step = edge / LEVELS
    rounded = np.minimum(np.rint(middle / step), LEVELS) * step
    return float(np.sum(counts * (middle - rounded) ** 2))


def _divergences(counts: Float64, edges: npt.NDArray[np.int64]) -> Float64:
    """By edge KL(clipped distribution ‖ the same in 128 levels), in nats; 0 for nothing lost.

    Sums over bins are differences of running ones: Σ r log(r / q) is Σ r log r less, level by level, what is
    in it times the logarithm of its mean. What is clipped lands in the last bin, which is put right apart.
    """
    running, filled, weighed = (
        np.concatenate([[0.0], np.cumsum(part)]) for part in (counts, counts > 0, _times_log(counts))
    )
    levels = LEVELS + 1
    bounds = -(-np.arange(levels + 1) * edges[:, None] // levels)  # (edges, levels + 1): of bins
    inside = np.diff(running[bounds], axis=1)
    spread = inside / np.maximum(np.diff(filled[bounds], axis=1), 1.0)  # of each bin in use
    last, clipped = counts[edges - 1], running[-1] - running[edges]
    tail = np.where(last > 0, spread[:, -1], np.where(clipped > 0, SMOOTHING, 0.0))
    whole = running[edges] + np.where(last > 0, 0.0, tail)  # Σ q before it is made a share
    among = weighed[edges] - (inside * _log(spread)).sum(axis=1) - _times_log(last) + last * _log(tail)
    at_the_end = _times_log(last + clipped) - (last + clipped) * _log(tail)
    losses: Float64 = (among + at_the_end) / running[-1] + _log(whole) - np.log(running[-1])
    return losses


def _log(values: Float64) -> Float64:
    """0 for 0, which is only ever multiplied by 0."""
    return np.log(np.where(values > 0, values, 1.0))


def _times_log(values: Float64) -> Float64:
    return values * _log(values)
