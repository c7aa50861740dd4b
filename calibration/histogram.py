"""Histograms of magnitudes that widen with what they see, in the same memory however much that is."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.errors import UsageError

BINS = 4096
ABSURD_MAGNITUDE = 1e30  # beyond it float32 scales lose their meaning


class MagnitudeHistogram:
    """|x| of one tensor in `BINS` equal bins over [0, 2ᵏ), with its extremes.

    The range is always a power of two, so a larger value only merges bins in pairs: nothing seen so far is
    lost or moved, and two histograms add exactly whatever their ranges.
    """

    def __init__(self, name: str) -> None:
        """`name` is the tensor's, for errors."""
        self.name = name
        self.counts = np.zeros(BINS, np.int64)
        self.exponent: int | None = None  # the range's; None before anything but zeros was seen
        self.zeros = 0
        self.low, self.high = math.inf, -math.inf

    @property
    def limit(self) -> float:
        """The end of the last bin."""
        return 0.0 if self.exponent is None else 2.0**self.exponent

    @property
    def largest(self) -> float:
        """The largest magnitude seen."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    def add(self, values: npt.NDArray[np.floating]) -> None:
        """Count `values` (any shape). Raises UsageError, naming the tensor, at NaN or infinity."""
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        largest = max(abs(low), abs(high))
        if not largest < ABSURD_MAGNITUDE:  # catches NaN too: every comparison with it is false
            bad = int(np.count_nonzero(~(np.abs(values) < ABSURD_MAGNITUDE)))
            problem = f"tensor {self.name!r}: {bad} of {values.size} activations are NaN, infinite or absurd"
            raise UsageError(
                problem, "the model is damaged or overflows: check it in float32 before quantizing"
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        if largest == 0.0:
            self.zeros += values.size
            return
        self._widen(_exponent_above(largest))
        magnitudes = np.abs(values[values != 0.0]).astype(np.float64)
        self.zeros += values.size - magnitudes.size
        place = np.minimum((magnitudes * (BINS / self.limit)).astype(np.int64), BINS - 1)
        self.counts += np.bincount(place, minlength=BINS)

    def merge(self, other: MagnitudeHistogram) -> None:
        """Count what `other` has counted as well."""
        self.zeros += other.zeros
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        if other.exponent is None:
            return
        self._widen(other.exponent)
        assert self.exponent is not None
        self.counts += _merged(other.counts, self.exponent - other.exponent)

    @property
    def is_constant(self) -> bool:
        """Whether every value seen is the same number: no range can be calibrated from it."""
        return self.low == self.high

    def require_values(self) -> None:
        """Raise UsageError, naming the tensor, when no value was counted."""
        if self.low > self.high:
            raise UsageError(
                f"tensor {self.name!r}: no activation was seen", "calibrate with at least one sample"
            )

    def _widen(self, exponent: int) -> None:
        if self.exponent is None:
            self.exponent = exponent
        elif exponent > self.exponent:
            self.counts = _merged(self.counts, exponent - self.exponent)
            self.exponent = exponent


def _exponent_above(value: float) -> int:
    """The least k with 2ᵏ > value."""
    return math.frexp(value)[1]


def _merged(counts: npt.NDArray[np.int64], doublings: int) -> npt.NDArray[np.int64]:
    """The counts over a range 2**doublings times as wide."""
    width = 2 ** min(doublings, int(math.log2(BINS)))
    wide = np.zeros(BINS, np.int64)
    wide[: BINS // width] = counts.reshape(-1, width).sum(1)
    return wide
