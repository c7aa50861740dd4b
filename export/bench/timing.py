"""Time several runners fairly: they take turns, so that a disturbance affects all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from textual_vision.export.bench.runner import Iteration
from textual_vision.runtime.progress import ProgressCallback, ignore_progress

ITERATIONS_PER_TURN = 5
WARM_UP_PER_TURN = 2  # refills the caches, which hold the data of another runner
SETTLING_SECONDS = 0.02  # before each turn: threads of another runner may still be in a busy wait
RESAMPLES = 2000
CONFIDENCE = (2.5, 97.5)  # percentiles of the bootstrap

Seconds = np.ndarray[tuple[int, int], np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds: the median and the requested percentiles ("90" → ms) of `count` iterations."""

    median: float
    percentiles: dict[str, float]
    count: int


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Median time of another runner over this one's, above 1 when this one is faster.

    `low` to `high` is the 95 % confidence interval.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Iterations:
    """Times of one runner in seconds, (rounds, ITERATIONS_PER_TURN): `end_to_end`, and of each stage."""

    end_to_end: Seconds
    stages: dict[str, Seconds]


class IterationSource(Protocol):
    """A runner that is timed in turns; see `RunnerProcess.run_iterations`."""

    def run_iterations(
        self, prompts: Sequence[str], seeds: Sequence[int], *, warm_up: int, measured: int
    ) -> list[Iteration]:
        """Return the times of `measured` runs after `warm_up` runs."""


def run_interleaved(
    runners: Mapping[str, IterationSource],
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    warm_up: int,
    iterations: int,
    on_progress: ProgressCallback = ignore_progress,
) -> dict[str, Iterations]:
    """Return the times of at least `iterations` runs of each runner, in turns whose order rotates."""
    for name, runner in runners.items():
        on_progress(f"warm up {name}, batch {len(prompts)}")
        runner.run_iterations(prompts, seeds, warm_up=warm_up, measured=0)
    rounds = math.ceil(iterations / ITERATIONS_PER_TURN)
    on_progress(f"{rounds} rounds of {ITERATIONS_PER_TURN}, batch {len(prompts)}")
    names = list(runners)
    turns: dict[str, list[list[Iteration]]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(SETTLING_SECONDS)
            turns[name].append(
                runners[name].run_iterations(
                    prompts, seeds, warm_up=WARM_UP_PER_TURN, measured=ITERATIONS_PER_TURN
                )
            )
    return {name: _iterations_from_turns(found) for name, found in turns.items()}


def _iterations_from_turns(turns: Sequence[Sequence[Iteration]]) -> Iterations:
    return Iterations(
        end_to_end=np.array([[one.seconds for one in turn] for turn in turns]),
        stages={
            name: np.array([[one.stage_seconds[name] for one in turn] for turn in turns])
            for name in turns[0][0].stage_seconds
        },
    )


def timing_from_seconds(seconds: Seconds, percentiles: Sequence[float]) -> Timing:
    """Return the median and percentiles of all iterations in milliseconds."""
    return Timing(
        median=1e3 * float(np.median(seconds)),
        percentiles={f"{p:g}": 1e3 * float(np.percentile(seconds, p)) for p in percentiles},
        count=int(seconds.size),
    )


def ratio_of_times(other: Iterations, own: Iterations) -> Ratio:
    """Return how many times as long `other` takes, with a bootstrap confidence interval over rounds.

    Both are resampled with the same rounds, so that a disturbance of a round counts for both.
    """
    rounds = len(own.end_to_end)
    picks = np.random.default_rng(0).integers(0, rounds, (RESAMPLES, rounds))
    medians = [np.median(one.end_to_end[picks].reshape(RESAMPLES, -1), axis=1) for one in (other, own)]
    low, high = np.percentile(medians[0] / medians[1], CONFIDENCE)
    middle = float(np.median(other.end_to_end) / np.median(own.end_to_end))
    return Ratio(median=middle, low=float(low), high=float(high))
