"""The upper confidence bound of a share, and the smallest defect that a number of pictures shows."""

from __future__ import annotations

import math

CONFIDENCE = 0.95
BISECTIONS = 60


def upper_bound(failures: int, count: int, confidence: float = CONFIDENCE) -> float:
    """Return the one-sided Clopper-Pearson upper bound of a share, 0 … 1.

    It is the share p for which at most `failures` of `count` trials fail with the probability 1 − confidence.
    That is the `confidence` quantile of Beta(failures + 1, count − failures). The distribution function is
    evaluated exactly and inverted by bisection.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the
    binomial", Biometrika 26, 1934.
    """
    if not 0 <= failures <= count or count == 0:
        raise ValueError(f"{failures} failures of {count}")
    if failures == count:
        return 1.0
    low, high = failures / count, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _at_most(failures, count, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def smallest_visible_share(count: int, confidence: float = CONFIDENCE) -> float:
    """Return the least share of pictures that a defect must hit, so that `count` pictures show it."""
    return upper_bound(0, count, confidence)


def _at_most(failures: int, count: int, share: float) -> float:
    """The probability of at most `failures` in `count` trials, each with the probability `share`."""
    if share >= 1.0:
        return 0.0
    logs = [
        math.lgamma(count + 1)
        - math.lgamma(k + 1)
        - math.lgamma(count - k + 1)
        + k * math.log(share)
        + (count - k) * math.log1p(-share)
        if share > 0.0
        else (0.0 if k == 0 else -math.inf)
        for k in range(failures + 1)
    ]
    return math.fsum(map(math.exp, logs))
