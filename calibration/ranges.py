"""From a histogram of magnitudes to the threshold that becomes ±127.

minmax      the largest magnitude: nothing is clipped, and one outlier costs everything else its resolution
percentile  clips a fixed share of the values
entropy     the threshold whose 128 levels lose the least information about the distribution, by the
            Kullback-Leibler divergence (S. Migacz, "8-bit inference with TensorRT", GTC 2017)
mse         the threshold with the least expected squared error of rounding and clipping together

No one of them is best for all tensors, which is why `auto` tries them all where it matters: on the output of
the layers that read the tensor (see `textual_vision.export.quantise_observe`).
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
SMOOTHING = 1e-4  # of a count, in bins that are empty after quantisation but were not before

Float64 = npt.NDArray[np.float64]


def check_method(method: str) -> None:
    """UsageError unless `method` is one of METHODS or AUTO."""
    if method not in (*METHODS, AUTO):
        raise UsageError(f"unknown range method {method!r}", f"there are: {', '.join((AUTO, *METHODS))}")


def threshold_from_histogram(histogram: MagnitudeHistogram, method: str) -> float:
    """The magnitude that becomes 127, by `method` (one of METHODS).

    Raises UsageError when the method is unknown or the tensor never varied.
    """
    if method == AUTO:
        raise UsageError("auto is no method for one tensor alone", f"there are: {', '.join(METHODS)}")
    check_method(method)
    histogram.require_varying()
    if method == "minmax":
        return histogram.largest
    if method == "percentile":
        return _percentile(histogram)
    edges = _candidates(histogram)
    loss = _divergence if method == "entropy" else _squared_error
    counts = histogram.counts.astype(np.float64)
    losses = [loss(counts, int(edge)) for edge in edges]
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
    """Σ count · (x − quantised x)², x at the middle of its bin, in bins squared."""
    middle = np.arange(BINS) + 0.5
    step = edge / LEVELS
    rounded = np.minimum(np.rint(middle / step), LEVELS) * step
    return float(np.sum(counts * (middle - rounded) ** 2))


def _divergence(counts: Float64, edge: int) -> float:
    """KL(clipped distribution ‖ the same in 128 levels), in nats; 0 for nothing lost."""
    reference = counts[:edge].copy()
    inside = reference > 0
    level = (np.arange(edge) * (LEVELS + 1)) // edge
    total = np.bincount(level, weights=reference, minlength=LEVELS + 1)
    filled = np.bincount(level, weights=inside.astype(np.float64), minlength=LEVELS + 1)
    spread = np.where(inside, (total / np.maximum(filled, 1.0))[level], 0.0)
    reference[-1] += counts[edge:].sum()  # what is clipped lands at the threshold
    spread = np.where((reference > 0) & (spread == 0), SMOOTHING, spread)
    p, q = reference / reference.sum(), spread / max(spread.sum(), SMOOTHING)
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / q[seen])))
