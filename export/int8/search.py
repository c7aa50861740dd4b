"""Which layers become int8 under a budget: every stage is judged alone, then the best choices together.

Alone means that all other stages stay as they were, so that one stage's error is not taken for another's. A
stage's choices are: integers wherever they can be, the same but for its most harmful layers, int8 weights
alone, the same but for its most harmful layers, weights in half, and the float graph itself. Those that meet
the budget alone are timed in turns, and left out where they cost hardly less than the float graph. What
several do together is foretold (wrong codes and squared errors add up) and then measured, the cheapest
first: cost is bytes plus time, each as a share of the float graphs'. Cost decides between choices with int8;
that there is int8 wherever the budget allows it was asked for, and no time says otherwise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from textual_vision.export.int8.budget import Budget, Trial, cannot_meet, json_of_score, pareto, shortfall
from textual_vision.export.int8.layers import HALF, INT8, MODES, QUANTIZED, WEIGHTS, default_modes
from textual_vision.export.int8.score import BYTES_PER_MEGABYTE, Measure, Score
from textual_vision.export.int8.stage import QuantizedStage

SHARES_BACK = (1 / 2, 1 / 4, 1 / 8, 1 / 16)  # of a stage's layers that step back, the most harmful ones
LESS = 0.95  # of the bytes: int8 weights that lose something must save something
WORTHWHILE = 0.9  # of the float graph's cost: for less, a stage's errors buy nothing
HOPELESS = 0.5  # of the budget, summed over what is asked for: half of the layers can't make up for it
HARM_BATCHES = 4  # on which layers are compared with each other
CAUTION = 1.25  # every choice that failed makes what is foretold of errors this much darker
TRIED_TOGETHER = 12  # choices of all stages that are measured
INTEGER_COST = 0.5  # of a float product, where time is not measured
COSTS = ("megabytes", "milliseconds")

Modes = Mapping[str, str]  # layer → mode


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One choice for a stage: `score` with all other stages in float; `milliseconds` None when not timed.

    `work` is the parameters computed with, those in integers as INTEGER_COST.
    """

    stage: str
    modes: Modes
    graph: bytes
    score: Score
    work: float
    milliseconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Search:
    """What was found: `graphs` by stage with their `modes`; every choice tried, in order."""

    graphs: Mapping[str, bytes]
    modes: Mapping[str, Modes]
    score: Score
    trials: tuple[Trial, ...]

    def score_json(self) -> dict[str, float | None]:
        """The score as JSON; identical pictures have no decibels."""
        return json_of_score(self.score)

    def table_json(self) -> list[dict[str, object]]:
        """The Pareto table: the trials that no other beats in everything, with the one that was taken."""
        taken = {self.trials[-1].label: " (taken)"}
        return [
            {"label": trial.label + taken.get(trial.label, ""), **json_of_score(trial.score)}
            for trial in pareto(self.trials)
        ]


def search(
    stages: Sequence[QuantizedStage], measure: Measure, budget: Budget, *, timed: bool = True
) -> Search:
    """The cheapest graphs within the budget.

    Without `timed`, for a target that is not this machine, integers are taken to be twice as fast.

    Raises BudgetError, with the best that was found, when no choice meets it.
    """
    ladders = [_Ladder(one, measure, budget) for one in stages]
    rungs = [ladder.rungs(timed) for ladder in ladders]
    if not any(_is_quantized(rung) for one in rungs for rung in one):
        rungs = [ladder.rungs(timed, at_any_cost=True) for ladder in ladders]
    trials = [_alone(rung) for ladder in ladders for rung in ladder.tried]
    floats = [one[-1] for one in rungs]
    choices = sorted(_choices(rungs), key=lambda choice: _cost(choice, floats))
    caution = 1.0
    for _ in range(TRIED_TOGETHER):
        short = [shortfall(_foretold(one, caution), budget) for one in choices]
        choice = choices.pop(short.index(min(short)))  # the cheapest of those that should meet the budget
        trials.append(_together(choice, measure))
        if shortfall(trials[-1].score, budget) == 0:
            graphs = {rung.stage: rung.graph for rung in choice}
            found = trials[-1]
            return Search(graphs=graphs, modes=found.modes, score=found.score, trials=tuple(trials))
        if min(short) > 0 or not choices:
            break
        caution *= CAUTION
    raise cannot_meet(budget, trials)


def _choices(rungs: Sequence[Sequence[Rung]]) -> list[tuple[Rung, ...]]:
    """Of all stages, int8 in one at least: of what is worthwhile, else of any; without where none has it."""
    worthwhile = [[*(rung for rung in one[:-1] if _is_worthwhile(rung, one[-1])), one[-1]] for one in rungs]
    for offered in (worthwhile, rungs):
        found = [choice for choice in itertools.product(*offered) if any(map(_is_quantized, choice))]
        if found:
            return found
    return list(itertools.product(*worthwhile))


def _is_worthwhile(rung: Rung, floating: Rung) -> bool:
    return _cost([rung], [floating]) < WORTHWHILE * _cost([floating], [floating])


def _is_quantized(rung: Rung) -> bool:
    return not set(QUANTIZED).isdisjoint(rung.modes.values())


class _Ladder:
    """A stage's choices, all in `tried`: those that meet the budget's accuracy alone are its rungs."""

    def __init__(self, stage: QuantizedStage, measure: Measure, budget: Budget) -> None:
        self._stage, self._measure = stage, measure
        self._budget = {name: bound for name, bound in budget.items() if name not in COSTS}
        self._rungs: list[Rung] = []
        self.tried: list[Rung] = []
        self._exact = measure.stored[stage.stage.name]
        self._harm: dict[tuple[str, str], float] = {}  # by layer and mode

    def rungs(self, timed: bool, *, at_any_cost: bool = False) -> list[Rung]:
        """The rungs, and last, whatever it does, the float graph.

        Unless int8 is wanted `at_any_cost`, no layers step back from a choice that would buy nothing as it
        is: to find the most harmful of hundreds takes minutes.
        """
        self._rungs, self.tried = [], []
        layers = self._stage.layers
        half = default_modes(layers, HALF)
        stored, integer = ({**half, **default_modes(layers, mode)} for mode in (WEIGHTS, INT8))
        if self._holds(half):
            self._quantize(half, stored, integer, at_any_cost=at_any_cost)
        floating = self._rung({}, self._exact)
        found = [*self._rungs, floating]
        if timed:
            times = self._measure.time(self._stage.stage, [rung.graph for rung in found])
            found = [replace(rung, milliseconds=time) for rung, time in zip(found, times, strict=True)]
        return found

    def _quantize(self, half: Modes, stored: Modes, integer: Modes, *, at_any_cost: bool) -> None:
        """Adds the choices with int8; what was tried last is `half`."""
        graph, larger = self._stage.graph(stored), self.tried[-1].graph  # that of `half`
        smaller = len(graph) < LESS * len(larger)
        held = smaller and self._holds(stored, graph)
        if smaller and not held and not self._near():
            return
        integers = integer != stored and not self._holds(integer) and self._near()
        if smaller and not held:
            pays = len(graph) / len(self._exact) + 1 < 2 * WORTHWHILE  # int8 weights alone take no less time
            if not (pays or integers or at_any_cost) or not self._step_back(half, stored):
                return
        if integers:
            if held:
                self._step_back(stored, integer)
            self._step_back(half, integer)

    def _near(self) -> bool:
        """Whether stepping back with some layers could bring what was tried last within the budget."""
        return shortfall(self.tried[-1].score, self._budget) < HOPELESS

    def _step_back(self, upper: Modes, lower: Modes) -> bool:
        """Adds as much of `lower` as holds: ever fewer of its most harmful layers as in `upper`.

        Returns whether any of it held.
        """
        changed = {name: mode for name, mode in lower.items() if mode != upper.get(name)}
        unknown = {name: mode for name, mode in changed.items() if (name, mode) not in self._harm}
        for name, harm in layer_errors(self._stage, self._measure, unknown).items():
            self._harm[name, unknown[name]] = harm
        worst = sorted(changed, key=lambda name: -self._harm[name, changed[name]])
        held = False
        for share in SHARES_BACK:
            back = worst[: math.ceil(share * len(worst))]
            if not self._holds({**lower, **{name: upper[name] for name in back}}):
                break
            held = True
        return held

    def _holds(self, modes: Modes, graph: bytes | None = None) -> bool:
        """Whether the choice, whose graph may be there already, meets the budget alone; it is a rung then."""
        rung = self._rung(modes, self._stage.graph(modes) if graph is None else graph)
        held = shortfall(rung.score, self._budget) == 0
        if held:
            self._rungs.append(rung)
        return held

    def _rung(self, modes: Modes, graph: bytes) -> Rung:
        name = self._stage.stage.name
        cost = {INT8: INTEGER_COST}
        work = sum(cost.get(modes.get(one.name, ""), 1.0) * one.parameters for one in self._stage.layers)
        changed = {name: graph} if modes else {}
        self.tried.append(
            Rung(stage=name, modes=modes, graph=graph, score=self._measure.score(changed), work=work)
        )
        return self.tried[-1]


def layer_errors(stage: QuantizedStage, measure: Measure, modes: Modes) -> dict[str, float]:
    """Layer → the stage's error (teacher-forced) when this layer alone is in its mode of `modes`."""
    return {
        name: measure.stage_error(stage.stage, stage.graph({name: mode}, compact=False), batches=HARM_BATCHES)
        for name, mode in modes.items()
    }


def _cost(choice: Sequence[Rung], floats: Sequence[Rung]) -> float:
    """Bytes and time, each as a share of the float graphs'."""

    def share(values: Sequence[float], wholes: Sequence[float]) -> float:
        return sum(values) / sum(wholes)

    size = share([len(rung.graph) for rung in choice], [len(rung.graph) for rung in floats])
    times = [rung.milliseconds for rung in choice if rung.milliseconds is not None]
    if len(times) < len(choice):
        return size + share([rung.work for rung in choice], [rung.work for rung in floats])
    return size + share(times, [rung.milliseconds or 0.0 for rung in floats])


def _foretold(choice: Sequence[Rung], caution: float) -> Score:
    """The score of all together from those of each alone; errors are taken to be `caution` times as many.

    Where only one stage changes, its score is known.
    """
    changed = [rung for rung in choice if rung.modes]
    if len(changed) == 1:
        return replace(changed[0].score, milliseconds=_milliseconds(choice))

    def agreement(shares: Sequence[float]) -> float:
        return 1 - caution * sum(1 - share for share in shares)

    def decibels(found: Sequence[float]) -> float:
        squares = caution * sum(10 ** (-one / 10) for one in found)
        return -10 * math.log10(squares) if squares else math.inf

    scores = [rung.score for rung in choice]
    return Score(
        text_code_agreement=agreement([one.text_code_agreement for one in scores]),
        code_agreement=agreement([one.code_agreement for one in scores]),
        generator_psnr=decibels([one.generator_psnr for one in scores]),
        psnr=decibels([one.psnr for one in scores]),
        megabytes=sum(len(rung.graph) for rung in choice) / BYTES_PER_MEGABYTE,
        milliseconds=_milliseconds(choice),
    )


def _together(choice: Sequence[Rung], measure: Measure) -> Trial:
    changed = [rung for rung in choice if rung.modes]
    score = (
        changed[0].score  # was measured alone
        if len(changed) == 1
        else measure.score({rung.stage: rung.graph for rung in changed})
    )
    return Trial(
        label="; ".join(f"{rung.stage}: {_label(rung.modes)}" for rung in choice),
        modes={rung.stage: dict(rung.modes) for rung in choice},
        score=replace(score, milliseconds=_milliseconds(choice)),
    )


def _alone(rung: Rung) -> Trial:
    return Trial(
        label=f"{rung.stage}: {_label(rung.modes)}; the rest float",
        modes={rung.stage: dict(rung.modes)},
        score=rung.score,
    )


def _milliseconds(choice: Sequence[Rung]) -> float | None:
    times = [rung.milliseconds for rung in choice if rung.milliseconds is not None]
    return sum(times) if len(times) == len(choice) else None


def _label(modes: Modes) -> str:
    chosen = list(modes.values())
    return ", ".join(f"{chosen.count(mode)} {mode}" for mode in MODES if mode in chosen) or "float"
