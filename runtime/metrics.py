"""Metrics of pictures that the runtime, the export and the training compute alike."""

from __future__ import annotations

import math

PEAK = 255.0  # the largest value of a uint8 pixel


def psnr_db(mean_square: float) -> float:
    """Return the peak signal-to-noise ratio of uint8 pictures in dB.

    `mean_square` is the mean squared difference of their values. The ratio of identical pictures is infinite.
    """
    return math.inf if mean_square == 0.0 else 10.0 * math.log10(PEAK**2 / mean_square)
