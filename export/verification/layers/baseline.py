"""Compare whole pictures with those of an earlier verification: worse by more than noise is a failure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textual_vision.export.verification.checks import BASELINE, CONVERSION, WHOLE, Check, check_of
from textual_vision.export.verification.prompts import Sample
from textual_vision.runtime.errors import UsageError

MIN_DECLINE_DB = 0.5  # less is not looked at, however certain it is
STANDARD_ERRORS = 3.0
CAP_DB = 99.0  # of identical pictures


def read_verification(path: Path) -> Mapping[str, Any]:
    """Return the JSON of an earlier verification; raises UsageError when the file is none."""
    hint = "give a file that `tv-export verify --json` wrote"
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error})", hint) from None
    if not isinstance(value, dict) or "checks" not in value or "decibels" not in value:
        raise UsageError(f"{path}: not the result of a verification", hint)
    return value


def baseline_checks(
    old: Mapping[str, Any], decibels: Mapping[str, Sequence[float | None]], samples: Sequence[Sample]
) -> Iterator[Check]:
    """Yield a check for every precision and backend, on the pictures with the same prompt and seed.

    The mean decline in dB must be above 0.5 dB and above three standard errors to fail.
    """
    before = [(one.get("text"), one.get("seed")) for one in old.get("samples", [])]
    place = {pair: index for index, pair in enumerate(before)}
    pairs = [
        (place[key], index) for index, one in enumerate(samples) if (key := (one.text, one.seed)) in place
    ]
    for name, values in decibels.items():
        earlier = old["decibels"].get(name)
        if not isinstance(earlier, list) or len(pairs) < 2:
            continue
        yield _check(name, [_capped(earlier[a]) - _capped(values[b]) for a, b in pairs])


def _check(name: str, decline: Sequence[float]) -> Check:
    mean = float(np.mean(decline))
    error = float(np.std(decline, ddof=1)) / math.sqrt(len(decline))
    worse = mean > MIN_DECLINE_DB and mean > STANDARD_ERRORS * error
    figure = f"{mean:+.2f} dB worse ± {error:.2f} on {len(decline)} pictures"
    precision, backend = name.split("/")[:2]
    return check_of(
        f"{precision}/whole/baseline/{backend}",
        WHOLE,
        BASELINE,
        [figure] if worse else [],
        passed=figure,
        tolerance=f"at most {MIN_DECLINE_DB:g} dB, or {STANDARD_ERRORS:g} standard errors",
        cause=CONVERSION,
    )


def _capped(value: float | None) -> float:
    return CAP_DB if value is None else min(CAP_DB, float(value))
