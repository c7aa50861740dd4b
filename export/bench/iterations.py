"""Timing several contestants fairly: in turns within one run, so that whatever disturbs one disturbs all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from textual_vision.export.bench.worker import Lap

BURST = 5  # measured drawings of a contestant's turn
UNMEASURED = 2  # before them: the caches hold what another drew with
SETTLING_SECONDS = 0.02  # before those: another's threads may still wait busily
RESAMPLES = 2000
SPREAD = (2.5, 97.5)  # per cent


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds: the median and the asked percentiles ("90" → ms) of `count` drawings."""

    median: float
    percentiles: dict[str, float]
    count: int


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Median time of another over one's own, above 1 when one is faster; `low` to `high` holds 95 %."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Laps:
    """One contestant's times in seconds: `whole` (rounds, BURST), `stages` by name likewise."""

    whole: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    stages: dict[str, np.ndarray[tuple[int, int], np.dtype[np.float64]]]


class Drawer(Protocol):
    """Who draws when it is told to; see bench_worker.burst."""

    def burst(
        self, prompts: Sequence[str], seeds: Sequence[int], unmeasured: int, measured: int
    ) -> list[Lap]: ...


def laps_of(
    drawers: Mapping[str, Drawer],
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    warm_up: int,
    iterations: int,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Laps]:
    """Time at least `iterations` drawings by everyone, in turns whose order rotates."""
    for name, drawer in drawers.items():
        tell(f"warm up {name}, batch {len(prompts)}")
        drawer.burst(prompts, seeds, warm_up, 0)
    rounds = math.ceil(iterations / BURST)
    tell(f"{rounds} rounds of {BURST}, batch {len(prompts)}")
    names = list(drawers)
    found: dict[str, list[list[Lap]]] = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            time.sleep(SETTLING_SECONDS)
            found[name].append(drawers[name].burst(prompts, seeds, UNMEASURED, BURST))
    return {name: _laps(turns) for name, turns in found.items()}


def _laps(turns: Sequence[Sequence[Lap]]) -> Laps:
    stages = {name: np.array([[lap[1][name] for lap in burst] for burst in turns]) for name in turns[0][0][1]}
    return Laps(whole=np.array([[lap[0] for lap in burst] for burst in turns]), stages=stages)


def timing_of(
    laps: np.ndarray[tuple[int, int], np.dtype[np.float64]], percentiles: Sequence[float]
) -> Timing:
    """The figures of all laps."""
    return Timing(
        median=1e3 * float(np.median(laps)),
        percentiles={f"{p:g}": 1e3 * float(np.percentile(laps, p)) for p in percentiles},
        count=int(laps.size),
    )


def ratio_of(other: Laps, own: Laps) -> Ratio:
    """How many times as long `other` takes, with the spread of a bootstrap over rounds.

    Rounds are drawn for both alike, so that what disturbed a round counts for both.
    """
    rounds = len(own.whole)
    picks = np.random.default_rng(0).integers(0, rounds, (RESAMPLES, rounds))
    medians = [np.median(laps.whole[picks].reshape(RESAMPLES, -1), axis=1) for laps in (other, own)]
    low, high = np.percentile(medians[0] / medians[1], SPREAD)
    middle = float(np.median(other.whole) / np.median(own.whole))
    return Ratio(median=middle, low=float(low), high=float(high))
