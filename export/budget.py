"""Mixed precision under a budget: int8 where accuracy allows and it pays, float where it must be.

A budget is a list such as `code_agreement>=0.97,psnr>=32`. The search begins with every layer in int8 and, as
long as the budget is not met, lets the stage step back whose step helps most: its most harmful layers compute
in float with int8 weights, then all of them do, then they are float altogether.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from textual_vision.export.quantise_measure import Measure, Score
from textual_vision.export.quantise_plan import FLOAT, INT8, WEIGHTS, default_modes
from textual_vision.export.quantise_stage import QuantisedStage
from textual_vision.runtime.errors import BudgetError, UsageError

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
DEFAULT_BUDGET = "code_agreement>=0.97,psnr>=32,generator_psnr>=36"
BUDGET_HINT = f"for example --budget code_agreement>=0.97,psnr>=32; metrics: {', '.join(METRICS)}"
TEXT_LIMIT = 1000
RUNGS = (1, 2, 4, 8, 16)  # layers that leave int8 first
WORTHWHILE = 0.98  # of the time without int8 arithmetic: less gain is noise
_TERM = re.compile(r"\s*([a-z_]+)\s*(>=|<=)\s*([0-9]+(?:\.[0-9]+)?)\s*")

Modes = Mapping[str, Mapping[str, str]]  # stage → layer → mode
Budget = Mapping[str, float]  # metric → bound, in the metric's own direction


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One choice that was measured."""

    label: str
    modes: Modes
    score: Score


@dataclass(frozen=True, kw_only=True)
class Search:
    """What was found: `graphs` by stage with their `modes`; every choice tried, in order."""

    graphs: Mapping[str, bytes]
    modes: Modes
    score: Score
    trials: tuple[Trial, ...]

    def score_json(self) -> dict[str, float | None]:
        """The score as JSON; identical pictures have no decibels."""
        return _json(self.score)

    def table_json(self) -> list[dict[str, object]]:
        """The Pareto table: the trials that no other beats in everything."""
        return [{"label": trial.label, **_json(trial.score)} for trial in pareto(self.trials)]


def parse_budget(text: str) -> Budget:
    """`metric>=number` or `metric<=number`, separated by commas; UsageError says what does not parse."""
    budget: dict[str, float] = {}
    if len(text) > TEXT_LIMIT or not text.strip():
        raise UsageError("the budget is empty" if not text.strip() else "the budget is too long", BUDGET_HINT)
    for term in text.split(","):
        match = _TERM.fullmatch(term)
        if match is None:
            raise UsageError(f"budget: {term.strip()[:80]!r} is not METRIC>=NUMBER", BUDGET_HINT)
        metric, relation, number = match[1], match[2], float(match[3])
        if metric not in METRICS:
            raise UsageError(f"budget: unknown metric {metric[:80]!r}", BUDGET_HINT)
        if relation != METRICS[metric]:
            problem = f"budget: {metric} can only be bounded by {METRICS[metric]}"
            raise UsageError(problem, BUDGET_HINT)
        if metric in SHARES and number > 1:
            raise UsageError(f"budget: {metric} is a share, at most 1, not {number:g}", f"{number / 100:g}?")
        if metric in budget:
            raise UsageError(f"budget: {metric} is bounded twice", BUDGET_HINT)
        budget[metric] = number
    return budget


def shortfall(score: Score, budget: Budget) -> float:
    """How far the score is from the budget: 0 when met, else the sum of the relative gaps."""
    total = 0.0
    for metric, bound in budget.items():
        value = getattr(score, metric)
        if value is None:
            raise UsageError(f"budget: {metric} of another target cannot be measured here", "leave it out")
        gap = bound - value if METRICS[metric] == AT_LEAST else value - bound
        total += max(0.0, gap) / max(bound, 1e-9)
    return total


def search(
    stages: Sequence[QuantisedStage], measure: Measure, budget: Budget, *, timed: bool = True
) -> Search:
    """The smallest, fastest graphs within the budget.

    Without `timed`, for a target that is not this machine, integers are taken to be faster.

    Raises BudgetError, with the best that was found, when no choice meets it.
    """
    ladders = {one.stage.name: _Ladder(one, measure, timed) for one in stages}
    trials: list[Trial] = []
    current = _measured(ladders, measure, trials)
    while shortfall(current.score, budget) > 0:
        options = []
        for name, ladder in ladders.items():
            if ladder.climb():
                options.append((name, _measured(ladders, measure, trials)))
                ladder.descend()
        if not options:
            raise _cannot(budget, trials)
        name, current = min(options, key=lambda option: _merit(option[1].score, budget))
        ladders[name].climb()
    graphs = {name: ladder.graph() for name, ladder in ladders.items()}
    return Search(graphs=graphs, modes=current.modes, score=current.score, trials=tuple(trials))


class _Ladder:
    """A stage's choices from all int8 to all float; rungs are made when they are needed."""

    def __init__(self, stage: QuantisedStage, measure: Measure, timed: bool) -> None:
        self.stage, self._measure, self.timed = stage, measure, timed
        self._rungs = self._choices()
        self._made: list[Mapping[str, str]] = [next(self._rungs)]
        self._place = 0
        self._graphs: dict[int, bytes] = {}

    @property
    def modes(self) -> Mapping[str, str]:
        """The layers' modes at this rung."""
        return self._made[self._place]

    def graph(self) -> bytes:
        """The stage's graph at this rung; the float graph itself where nothing is int8."""
        if self._place not in self._graphs:
            float_graph = self._measure.floats[self.stage.stage.name]
            self._graphs[self._place] = self.stage.graph(self.modes) if self.modes else float_graph
        return self._graphs[self._place]

    def climb(self) -> bool:
        """One step towards float; False at the top."""
        if self._place + 1 == len(self._made):
            rung = next(self._rungs, None)
            if rung is None:
                return False
            self._made.append(rung)
        self._place += 1
        return True

    def descend(self) -> None:
        """One step back."""
        self._place -= 1

    def _choices(self) -> Iterator[Mapping[str, str]]:
        layers = self.stage.layers
        full, stored = default_modes(layers, INT8), default_modes(layers, WEIGHTS)
        computed = [name for name in full if full[name] == INT8]
        if computed and self._pays(full, stored):
            yield full
            harm = layer_errors(self.stage, self._measure, dict.fromkeys(computed, INT8))
            worst = sorted(computed, key=lambda name: -harm[name])
            for count in RUNGS:
                if count < len(worst):
                    yield {**full, **dict.fromkeys(worst[:count], WEIGHTS)}
        yield stored
        harm = layer_errors(self.stage, self._measure, stored)
        worst = sorted(stored, key=lambda name: -harm[name])
        for count in RUNGS:
            if count < len(worst):
                yield dict.fromkeys(worst[count:], WEIGHTS)
        yield {}

    def _pays(self, full: Mapping[str, str], stored: Mapping[str, str]) -> bool:
        """Whether computing in integers is faster here than storing integers alone, or than float."""
        if not self.timed:
            return True
        one = self.stage
        graphs = [one.graph(full), one.graph(stored), self._measure.floats[one.stage.name]]
        integer, weights, floating = self._measure.time(one.stage, graphs)
        return integer < WORTHWHILE * min(weights, floating) or integer < WORTHWHILE * weights


def layer_errors(stage: QuantisedStage, measure: Measure, modes: Mapping[str, str]) -> dict[str, float]:
    """Layer → the stage's error (teacher-forced) when this layer alone is in its mode of `modes`."""
    return {name: measure.stage_error(stage.stage, stage.graph({name: mode})) for name, mode in modes.items()}


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
    return lines_of_rows([{"label": trial.label, **_json(trial.score)} for trial in pareto(trials)])


def lines_of_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
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


def _measured(ladders: Mapping[str, _Ladder], measure: Measure, trials: list[Trial]) -> Trial:
    modes = {name: dict(ladder.modes) for name, ladder in ladders.items()}
    changed = {name: ladder.graph() for name, ladder in ladders.items() if ladder.modes}
    label = "; ".join(f"{name}: {_label(ladder)}" for name, ladder in ladders.items())
    timed = all(ladder.timed for ladder in ladders.values())
    trial = Trial(label=label, modes=modes, score=measure.score(changed, timed=timed))
    trials.append(trial)
    return trial


def _label(ladder: _Ladder) -> str:
    chosen = list(ladder.modes.values())
    counts = {INT8: chosen.count(INT8), WEIGHTS: chosen.count(WEIGHTS)}
    counts[FLOAT] = len(default_modes(ladder.stage.layers, WEIGHTS)) - len(chosen)
    return " ".join(f"{count} {mode}" for mode, count in counts.items() if count)


def _merit(score: Score, budget: Budget) -> tuple[float, float, float]:
    return shortfall(score, budget), score.megabytes, score.milliseconds or 0.0


def _merits(score: Score) -> tuple[float, ...]:
    """Every metric so that less is better."""
    time = score.milliseconds or 0.0
    agreement = (-score.code_agreement, -score.text_code_agreement)
    return (*agreement, -score.psnr, -score.generator_psnr, score.megabytes, time)


def _cannot(budget: Budget, trials: Sequence[Trial]) -> BudgetError:
    best = min(trials, key=lambda trial: _merit(trial.score, budget))
    parts = [
        f"{metric} {getattr(best.score, metric):.4g} (asked: {METRICS[metric]}{bound:g})"
        for metric, bound in budget.items()
    ]
    return BudgetError(
        f"no choice of layers meets the budget; the best found has {', '.join(parts)}",
        f"ask for less, or train longer; that choice was: {best.label}",
    )


def _json(score: Score) -> dict[str, float | None]:
    values: dict[str, float | None] = asdict(score)
    return {n: None if v is None or math.isinf(v) else round(v, 6) for n, v in values.items()}
