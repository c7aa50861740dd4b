"""INT8 tolerances, such as `code_agreement>=0.97,psnr>=32`, and the table of choices tried under one.

`export.parity.tolerance` has the limits of the comparison with PyTorch, which every precision must meet too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from textual_vision.export.int8.score import Score
from textual_vision.runtime.errors import ToleranceError, UsageError

AT_LEAST, AT_MOST = ">=", "<="
METRICS = {
    "code_agreement": AT_LEAST,
    "text_code_agreement": AT_LEAST,
    "psnr": AT_LEAST,
    "generator_psnr": AT_LEAST,
    "megabytes": AT_MOST,
    "milliseconds": AT_MOST,
}
SHARES = ("code_agreement", "text_code_agreement")
DEFAULT_TOLERANCE = "code_agreement>=0.995,psnr>=32,generator_psnr>=36"
TOLERANCE_HINT = f"for example --int8-tolerance code_agreement>=0.97,psnr>=32; metrics: {', '.join(METRICS)}"
TEXT_LIMIT = 1000
_TERM = re.compile(r"\s*([a-z_]+)\s*(>=|<=)\s*([0-9]+(?:\.[0-9]+)?)\s*")

Modes = Mapping[str, Mapping[str, str]]  # stage → layer → mode
Int8Tolerance = Mapping[str, float]  # metric → bound, in the metric's own direction


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One choice that was measured."""

    label: str
    modes: Modes
    score: Score


def parse_tolerance(text: str) -> Int8Tolerance:
    """`metric>=number` or `metric<=number`, separated by commas; UsageError says what does not parse."""
    tolerance: dict[str, float] = {}
    if len(text) > TEXT_LIMIT or not text.strip():
        raise UsageError(
            "the tolerance is empty" if not text.strip() else "the tolerance is too long", TOLERANCE_HINT
        )
    for term in text.split(","):
        match = _TERM.fullmatch(term)
        if match is None:
            raise UsageError(f"tolerance: {term.strip()[:80]!r} is not METRIC>=NUMBER", TOLERANCE_HINT)
        metric, relation, number = match[1], match[2], float(match[3])
        if metric not in METRICS:
            raise UsageError(f"tolerance: unknown metric {metric[:80]!r}", TOLERANCE_HINT)
        if relation != METRICS[metric]:
            problem = f"tolerance: {metric} can only be bounded by {METRICS[metric]}"
            raise UsageError(problem, TOLERANCE_HINT)
        if metric in SHARES and number > 1:
            raise UsageError(
                f"tolerance: {metric} is a share, at most 1, not {number:g}", f"{number / 100:g}?"
            )
        if metric in tolerance:
            raise UsageError(f"tolerance: {metric} is bounded twice", TOLERANCE_HINT)
        tolerance[metric] = number
    return tolerance


def tolerance_gap(score: Score, tolerance: Int8Tolerance) -> float:
    """How far the score is from the tolerance: 0 when met, else the sum of the relative gaps."""
    total = 0.0
    for metric, bound in tolerance.items():
        value = getattr(score, metric)
        if value is None:
            raise UsageError(f"tolerance: {metric} of another target cannot be measured here", "leave it out")
        gap = bound - value if METRICS[metric] == AT_LEAST else value - bound
        total += max(0.0, gap) / max(bound, 1e-9)
    return total


def pareto(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other equals or betters in every metric; best accuracy first."""

    def better(a: Trial, b: Trial) -> bool:
        first, second = _merits(a.score), _merits(b.score)
        return first != second and all(x <= y for x, y in zip(first, second, strict=True))

    kept = [trial for trial in trials if not any(better(other, trial) for other in trials)]
    unique = {_merits(trial.score): trial for trial in reversed(kept)}
    return sorted(unique.values(), key=lambda trial: (-trial.score.code_agreement, -trial.score.psnr))


def lines_of_table(trials: Sequence[Trial]) -> list[str]:
    """The Pareto table as text, a line a choice."""
    return table_lines([{"label": trial.label, **json_of_score(trial.score)} for trial in pareto(trials)])


def table_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table as text from its JSON (see `Search.table_json`); identical pictures have no decibels."""
    lines = [f"{'codes %':>8} {'text %':>7} {'psnr':>6} {'gen.':>6} {'MB':>7} {'ms':>7}  choice"]
    for row in rows:
        psnr, generator = ("=" if row[n] is None else f"{row[n]:.1f}" for n in ("psnr", "generator_psnr"))
        time = "" if row["milliseconds"] is None else f"{row['milliseconds']:.2f}"
        lines.append(
            f"{100 * row['code_agreement']:8.2f} {100 * row['text_code_agreement']:7.2f} {psnr:>6} "
            f"{generator:>6} {row['megabytes']:7.2f} {time:>7}  {row['label']}"
        )
    return lines


def _merit(score: Score, tolerance: Int8Tolerance) -> tuple[float, float, float]:
    return tolerance_gap(score, tolerance), score.megabytes, score.milliseconds or 0.0


def _merits(score: Score) -> tuple[float, ...]:
    """Every metric so that less is better; what was not timed is no faster than anything."""
    time = math.inf if score.milliseconds is None else score.milliseconds
    agreement = (-score.code_agreement, -score.text_code_agreement)
    return (*agreement, -score.psnr, -score.generator_psnr, score.megabytes, time)


def tolerance_error(tolerance: Int8Tolerance, trials: Sequence[Trial]) -> ToleranceError:
    """The error that tells the best that was found."""
    best = min(trials, key=lambda trial: _merit(trial.score, tolerance))
    parts = [
        f"{metric} {getattr(best.score, metric):.4g} (asked: {METRICS[metric]}{bound:g})"
        for metric, bound in tolerance.items()
    ]
    return ToleranceError(
        f"no choice of layers meets the tolerance; the best found has {', '.join(parts)}",
        f"ask for less, or train longer; that choice was: {best.label}",
    )


def json_of_score(score: Score) -> dict[str, float | None]:
    """The score as JSON; identical pictures have no decibels."""
    values: dict[str, float | None] = asdict(score)
    return {n: None if v is None or math.isinf(v) else round(v, 6) for n, v in values.items()}
