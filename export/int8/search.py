"""Which layers become int8 under a tolerance: every stage is judged alone, then the best choices together.

Alone means that all other stages stay as they were, so that one stage's error is not taken for another's. A
stage's choices are: integers wherever they can be, the same but for its most harmful layers, int8 weights
alone, the same but for its most harmful layers, weights in half, and the float graph itself. Those that meet
the tolerance alone are timed in turns, and left out where they cost hardly less than the float graph. What
several do together is foretold (wrong codes and squared errors add up) and then measured, the cheapest
first: cost is bytes plus time, each as a share of the float graphs'. Cost decides between choices with int8;
that there is int8 wherever the tolerance allows it was asked for, and no time says otherwise.

For TensorRT the first is the choice with the most integers, whatever it costs here: only accuracy says that a
product stays in float.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from textual_vision.export.int8.layers import (
    HALF,
    INT8,
    MIN_WEIGHT_VALUES,
    MODES,
    QUANTIZED,
    TABLE,
    WEIGHT_ONLY,
    default_modes,
)
from textual_vision.export.int8.score import BYTES_PER_MEGABYTE, Evaluator, Score
from textual_vision.export.int8.stage import QuantizedStage
from textual_vision.export.int8.tolerance import (
    Int8Tolerance,
    Trial,
    json_of_score,
    pareto,
    tolerance_error,
    tolerance_gap,
)

RELAX_FRACTIONS = (1 / 2, 1 / 4, 1 / 8, 1 / 16)  # of a stage's layers that step back, the most harmful ones
MAX_SIZE_RATIO = 0.95  # of the bytes: int8 weights that lose something must save something
MAX_COST_RATIO = 0.9  # of the float graph's cost: for less, a stage's errors buy nothing
HOPELESS = 0.5  # of the tolerance, summed over what is asked for: half of the layers can't make up for it
SENSITIVITY_BATCHES = 4  # on which layers are compared with each other
PREDICTION_MARGIN = 1.25  # every choice that failed makes what is foretold of errors this much darker
MAX_JOINT_TRIALS = 12  # choices of all stages that are measured
INTEGER_COST = 0.5  # of a float product, where time is not measured
THOROUGH_FRACTIONS = (7 / 8, 3 / 4, *RELAX_FRACTIONS)  # where integers are wanted at any cost
ACCURACY, TIME, SIZE, SMALL, CONSTANT = "accuracy", "time", "size", "small", "constant input"
COSTS = ("megabytes", "milliseconds")

Modes = Mapping[str, str]  # layer → mode


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One choice for a stage: `score` with all other stages in float; `milliseconds` None when not timed.

    `work` is the parameters computed with, those in integers as INTEGER_COST; `float_work` those of products
    that are not in integers.
    """

    stage: str
    modes: Modes
    graph: bytes
    score: Score
    work: float
    float_work: float = 0.0
    milliseconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Search:
    """What was found: `graphs` by stage with their `modes`; every choice tried, in order.

    `reasons`, stage → layer, say why a product is not computed in integers.
    """

    graphs: Mapping[str, bytes]
    modes: Mapping[str, Modes]
    score: Score
    trials: tuple[Trial, ...]
    reasons: Mapping[str, Mapping[str, str]]

    def score_json(self) -> dict[str, float | None]:
        """The score as JSON; identical pictures have no decibels."""
        return json_of_score(self.score)

    def table_json(self) -> list[dict[str, object]]:
        """The Pareto table: the trials that no other beats in everything, and the one that was taken."""
        taken = self.trials[-1]
        shown = [trial for trial in pareto(self.trials) if trial.label != taken.label]
        rows = [(trial.label, trial.score) for trial in shown] + [(f"{taken.label} (taken)", taken.score)]
        return [{"label": label, **json_of_score(score)} for label, score in rows]


def search(
    stages: Sequence[QuantizedStage],
    evaluator: Evaluator,
    tolerance: Int8Tolerance,
    *,
    timed: bool = True,
    thorough: bool = False,
) -> Search:
    """The cheapest graphs within the tolerance; `thorough`, those with the most integers within it.

    Without `timed`, for a target that is not this machine, integers are taken to be twice as fast.

    Raises ToleranceError, with the best that was found, when no choice meets it.
    """
    stage_candidates = [StageCandidates(one, evaluator, tolerance, thorough=thorough) for one in stages]
    candidates = [part.candidates(timed) for part in stage_candidates]
    if not any(_is_quantized(candidate) for one in candidates for candidate in one):
        candidates = [part.candidates(timed, at_any_cost=True) for part in stage_candidates]
    trials = [_single_stage_trial(one) for part in stage_candidates for one in part.tried]
    floats = [one[-1] for one in candidates]

    def rank(choice: Sequence[Candidate]) -> tuple[float, float]:
        return (sum(one.float_work for one in choice) if thorough else 0.0, _cost(choice, floats))

    choices = sorted(_choices(candidates, everything=thorough), key=rank)
    margin = 1.0
    for _ in range(MAX_JOINT_TRIALS):
        short = [tolerance_gap(_predicted_score(one, margin), tolerance) for one in choices]
        choice = choices.pop(short.index(min(short)))  # the cheapest of those that should meet the tolerance
        trials.append(_measured_trial(choice, evaluator))
        if tolerance_gap(trials[-1].score, tolerance) == 0:
            graphs = {candidate.stage: candidate.graph for candidate in choice}
            found = trials[-1]
            chosen = zip(stages, stage_candidates, candidates, choice, strict=True)
            reasons = {
                one.stage.name: _reasons(one, part.tried, held, taken) for one, part, held, taken in chosen
            }
            return Search(
                graphs=graphs, modes=found.modes, score=found.score, trials=tuple(trials), reasons=reasons
            )
        if min(short) > 0 or not choices:
            break
        margin *= PREDICTION_MARGIN
    raise tolerance_error(tolerance, trials)


def _reasons(
    stage: QuantizedStage, tried: Sequence[Candidate], held: Sequence[Candidate], taken: Candidate
) -> dict[str, str]:
    """Why a product of the stage is not computed in integers, by the layer's name.

    Of the choices that were `tried`, those `held` are within the tolerance; the last is the float graph.
    """
    found = {}
    for layer in stage.layers:
        if layer.kind == TABLE or taken.modes.get(layer.name) == INT8:
            continue
        within = [one for one in held if one.modes.get(layer.name) == INT8]
        if layer.parameters < MIN_WEIGHT_VALUES:
            found[layer.name] = SMALL
        elif layer.is_weight_only:
            found[layer.name] = CONSTANT
        elif layer.feeds_argmax:
            found[layer.name] = ACCURACY
        elif within and not all(_costs_less(one, taken, held[-1]) for one in within):
            found[layer.name] = SIZE if taken.milliseconds is None else TIME
        else:
            was_tried = any(one.modes.get(layer.name) == INT8 for one in tried)
            found[layer.name] = ACCURACY if was_tried else SIZE
    return found


def _costs_less(one: Candidate, other: Candidate, floating: Candidate) -> bool:
    return _cost([one], [floating]) < _cost([other], [floating])


def _choices(
    candidates: Sequence[Sequence[Candidate]], *, everything: bool = False
) -> list[tuple[Candidate, ...]]:
    """Of all stages, int8 in one at least: of what is worthwhile, else of any; without where none has it.

    `everything` does not ask what is worthwhile.
    """
    worthwhile = [
        [*(candidate for candidate in one[:-1] if _is_worthwhile(candidate, one[-1])), one[-1]]
        for one in candidates
    ]
    for offered in (candidates,) if everything else (worthwhile, candidates):
        found = [choice for choice in itertools.product(*offered) if any(map(_is_quantized, choice))]
        if found:
            return found
    return list(itertools.product(*worthwhile))


def _is_worthwhile(candidate: Candidate, floating: Candidate) -> bool:
    return _cost([candidate], [floating]) < MAX_COST_RATIO * _cost([floating], [floating])


def _is_quantized(candidate: Candidate) -> bool:
    return not set(QUANTIZED).isdisjoint(candidate.modes.values())


class StageCandidates:
    """A stage's choices, all in `tried`; those that alone meet the tolerance are its candidates."""

    def __init__(
        self, stage: QuantizedStage, evaluator: Evaluator, tolerance: Int8Tolerance, *, thorough: bool = False
    ) -> None:
        """`thorough` looks for integers whatever they cost."""
        self._stage, self._evaluator, self._thorough = stage, evaluator, thorough
        self._tolerance = {name: bound for name, bound in tolerance.items() if name not in COSTS}
        self._candidates: list[Candidate] = []
        self.tried: list[Candidate] = []
        self._exact = evaluator.stored[stage.stage.name]
        self._layer_errors: dict[tuple[str, str], float] = {}  # by layer and mode

    def candidates(self, timed: bool, *, at_any_cost: bool = False) -> list[Candidate]:
        """The candidates, and last, whatever it does, the float graph.

        Unless int8 is wanted `at_any_cost`, no layers step back from a choice that would buy nothing as it
        is: to find the most harmful of hundreds takes minutes.
        """
        self._candidates, self.tried = [], []
        layers = self._stage.layers
        half = default_modes(layers, HALF)
        stored, integer = ({**half, **default_modes(layers, mode)} for mode in (WEIGHT_ONLY, INT8))
        if self._thorough:
            self._quantize_thoroughly(half, integer)
        elif self._meets_tolerance(half):
            self._quantize(half, stored, integer, at_any_cost=at_any_cost)
        floating = self._candidate({}, self._exact)
        found = [*self._candidates, floating]
        if timed:
            times = self._evaluator.time(self._stage.stage, [candidate.graph for candidate in found])
            found = [
                replace(candidate, milliseconds=time) for candidate, time in zip(found, times, strict=True)
            ]
        return found

    def _quantize(self, half: Modes, stored: Modes, integer: Modes, *, at_any_cost: bool) -> None:
        """Adds the choices with int8; what was tried last is `half`."""
        graph, larger = self._stage.graph(stored), self.tried[-1].graph  # that of `half`
        smaller = len(graph) < MAX_SIZE_RATIO * len(larger)
        held = smaller and self._meets_tolerance(stored, graph)
        if smaller and not held and not self._near():
            return
        integers = integer != stored and not self._meets_tolerance(integer) and self._near()
        if smaller and not held:
            pays = len(graph) / len(self._exact) + 1 < 2 * MAX_COST_RATIO  # weight_only saves no time
            if not (pays or integers or at_any_cost) or not self._relax_worst_layers(half, stored):
                return
        if integers:
            if held:
                self._relax_worst_layers(stored, integer)
            self._relax_worst_layers(half, integer)

    def _quantize_thoroughly(self, half: Modes, integer: Modes) -> None:
        """Adds the choices with as many integers as hold."""
        upper = half if self._meets_tolerance(half) else {}
        if integer != half and not self._meets_tolerance(integer):
            self._relax_worst_layers(upper, integer)

    def _near(self) -> bool:
        """Whether stepping back with some layers could bring what was tried last within the tolerance."""
        return tolerance_gap(self.tried[-1].score, self._tolerance) < HOPELESS

    def _relax_worst_layers(self, upper: Modes, lower: Modes) -> bool:
        """Adds as much of `lower` as holds: ever fewer of its most harmful layers as in `upper`.

        Returns whether any of it held.
        """
        changed = {name: mode for name, mode in lower.items() if mode != upper.get(name)}
        unknown = {name: mode for name, mode in changed.items() if (name, mode) not in self._layer_errors}
        for name, harm in layer_errors(self._stage, self._evaluator, unknown).items():
            self._layer_errors[name, unknown[name]] = harm
        worst = sorted(changed, key=lambda name: -self._layer_errors[name, changed[name]])
        held = False
        for share in THOROUGH_FRACTIONS if self._thorough else RELAX_FRACTIONS:
            back = set(worst[: math.ceil(share * len(worst))])
            modes = {name: mode for name, mode in lower.items() if name not in back}
            if not self._meets_tolerance({**modes, **{name: upper[name] for name in back if name in upper}}):
                break
            held = True
        return held

    def _meets_tolerance(self, modes: Modes, graph: bytes | None = None) -> bool:
        """Whether the choice alone meets the tolerance; then it is kept. `graph` may be there already."""
        candidate = self._candidate(modes, self._stage.graph(modes) if graph is None else graph)
        within = tolerance_gap(candidate.score, self._tolerance) == 0
        held = within and self._evaluator.holds(self._stage.stage, candidate.graph)
        if held:
            self._candidates.append(candidate)
        return held

    def _candidate(self, modes: Modes, graph: bytes) -> Candidate:
        name = self._stage.stage.name
        products = [one for one in self._stage.layers if one.kind != TABLE]
        cost = {INT8: INTEGER_COST}
        work = sum(cost.get(modes.get(one.name, ""), 1.0) * one.parameters for one in self._stage.layers)
        float_work = sum(one.parameters for one in products if modes.get(one.name) != INT8)
        changed = {name: graph} if modes else {}
        self.tried.append(
            Candidate(
                stage=name,
                modes=modes,
                graph=graph,
                score=self._evaluator.score(changed),
                work=work,
                float_work=float_work,
            )
        )
        return self.tried[-1]


def layer_errors(stage: QuantizedStage, evaluator: Evaluator, modes: Modes) -> dict[str, float]:
    """Layer → the stage's error (teacher-forced) when this layer alone is in its mode of `modes`."""
    return {
        name: evaluator.stage_error(
            stage.stage, stage.graph({name: mode}, compact=False), batches=SENSITIVITY_BATCHES
        )
        for name, mode in modes.items()
    }


def _cost(choice: Sequence[Candidate], floats: Sequence[Candidate]) -> float:
    """Bytes and time, each as a share of the float graphs'."""

    def share(values: Sequence[float], wholes: Sequence[float]) -> float:
        whole = sum(wholes)  # 0 where no stage has a product, or a clock saw no time
        return sum(values) / whole if whole else 1.0

    size = share(
        [len(candidate.graph) for candidate in choice], [len(candidate.graph) for candidate in floats]
    )
    times = [candidate.milliseconds for candidate in choice if candidate.milliseconds is not None]
    if len(times) < len(choice):
        return size + share(
            [candidate.work for candidate in choice], [candidate.work for candidate in floats]
        )
    return size + share(times, [candidate.milliseconds or 0.0 for candidate in floats])


def _predicted_score(choice: Sequence[Candidate], margin: float) -> Score:
    """The score of all together from those of each alone; errors are taken to be `margin` times as many.

    Where only one stage changes, its score is known.
    """
    changed = [candidate for candidate in choice if candidate.modes]
    if len(changed) == 1:
        return replace(changed[0].score, milliseconds=_milliseconds(choice))

    def agreement(shares: Sequence[float]) -> float:
        return 1 - margin * sum(1 - share for share in shares)

    def decibels(found: Sequence[float]) -> float:
        squares = margin * sum(10 ** (-one / 10) for one in found)
        return -10 * math.log10(squares) if squares else math.inf

    scores = [candidate.score for candidate in choice]
    return Score(
        text_code_agreement=agreement([one.text_code_agreement for one in scores]),
        code_agreement=agreement([one.code_agreement for one in scores]),
        generator_psnr=decibels([one.generator_psnr for one in scores]),
        psnr=decibels([one.psnr for one in scores]),
        megabytes=sum(len(candidate.graph) for candidate in choice) / BYTES_PER_MEGABYTE,
        milliseconds=_milliseconds(choice),
    )


def _measured_trial(choice: Sequence[Candidate], evaluator: Evaluator) -> Trial:
    changed = [candidate for candidate in choice if candidate.modes]
    score = (
        changed[0].score  # was measured alone
        if len(changed) == 1
        else evaluator.score({candidate.stage: candidate.graph for candidate in changed})
    )
    return Trial(
        label="; ".join(f"{candidate.stage}: {_label(candidate.modes)}" for candidate in choice),
        modes={candidate.stage: dict(candidate.modes) for candidate in choice},
        score=replace(score, milliseconds=_milliseconds(choice)),
    )


def _single_stage_trial(candidate: Candidate) -> Trial:
    return Trial(
        label=f"{candidate.stage}: {_label(candidate.modes)}; the rest float",
        modes={candidate.stage: dict(candidate.modes)},
        score=candidate.score,
    )


def _milliseconds(choice: Sequence[Candidate]) -> float | None:
    times = [candidate.milliseconds for candidate in choice if candidate.milliseconds is not None]
    return sum(times) if len(times) == len(choice) else None


def _label(modes: Modes) -> str:
    chosen = list(modes.values())
    return ", ".join(f"{chosen.count(mode)} {mode}" for mode in MODES if mode in chosen) or "float"
