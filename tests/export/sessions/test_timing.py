"""Graphs are timed in turns, long enough for each to have had a moment without other programs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from textual_vision.export.model.batch import Array, ReferenceBatch
from textual_vision.export.sessions import timing as measure
from textual_vision.export.sessions.timing import (
    ITERATIONS,
    MEAN_SECONDS,
    WARM_UP,
    mean_cpu_ms,
    median_latency_ms,
    min_cpu_ms,
)
from textual_vision.runtime.manifest import StageSpec, TensorSpec

STAGE = StageSpec(
    name="generator", inputs=(TensorSpec(name="x", dtype="float32", shape=("batch",)),), outputs=()
)
BATCH = ReferenceBatch(
    prompts=("a",),
    seeds=(0,),
    tensors={"x": np.zeros(1, np.float32), "attention_mask": np.ones((1, 1), np.int64)},
    margins={},
)


class Clock:
    """Goes on only when a session runs; the process does much beside, in other threads."""

    def __init__(self) -> None:
        self.seconds = self.thread_seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds

    def process_time(self) -> float:
        return 100 * self.seconds

    def thread_time(self) -> float:
        return self.thread_seconds


class Disturbed:
    """Takes `milliseconds` of a core, and waits for six more; in the first `disturbed` runs, in which others
    have its cache, it takes those six too.
    """

    inputs, outputs, largest_batch = frozenset("x"), frozenset[str](), None

    def __init__(self, clock: Clock, milliseconds: float, disturbed: int = 0) -> None:
        self._clock, self._milliseconds, self._disturbed = clock, milliseconds, disturbed
        self.runs = 0

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.runs += 1
        self._clock.thread_seconds += 1e-3 * (self._milliseconds + 6.0 * (self.runs <= self._disturbed))
        self._clock.seconds += 1e-3 * (self._milliseconds + 6.0)
        return {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(measure, "time", found)
    return found


def test_a_disturbance_longer_than_the_least_turns_hides_no_time(clock: Clock) -> None:
    sessions = [Disturbed(clock, 1.0), Disturbed(clock, 2.0, disturbed=WARM_UP + ITERATIONS + 10)]
    assert min_cpu_ms(sessions, STAGE, BATCH)[1] == pytest.approx(8.0)
    sessions = [Disturbed(clock, 1.0), Disturbed(clock, 2.0, disturbed=WARM_UP + ITERATIONS + 10)]
    assert min_cpu_ms(sessions, STAGE, BATCH, seconds=0.3) == pytest.approx((1.0, 2.0))


def test_a_machine_that_was_slow_for_a_while_is_slow_for_all(clock: Clock) -> None:
    class SlowAtFirst(Disturbed):
        def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            self._clock.seconds += 0.01 * (self._clock.seconds < 0.1)
            return super().run(inputs)

    sessions = [SlowAtFirst(clock, 1.0), SlowAtFirst(clock, 2.0)]
    assert median_latency_ms(sessions, STAGE, BATCH) == pytest.approx((7.0, 8.0))


def test_turns_last_the_seconds_for_each_session(clock: Clock) -> None:
    sessions = [Disturbed(clock, 1.0), Disturbed(clock, 2.0)]
    min_cpu_ms(sessions, STAGE, BATCH, seconds=0.3)
    assert [one.runs for one in sessions] == [200, 200]


def test_slow_graphs_are_not_run_more_often(clock: Clock) -> None:
    slow = Disturbed(clock, 400.0)
    min_cpu_ms([slow], STAGE, BATCH, seconds=0.3)
    assert slow.runs == WARM_UP + ITERATIONS


def test_what_a_drawing_takes_of_a_core_is_the_same_on_a_busy_machine(clock: Clock) -> None:
    sessions = [Disturbed(clock, 1.0), Disturbed(clock, 2.0)]
    assert mean_cpu_ms(sessions, STAGE, BATCH) == pytest.approx((1.0, 2.0))
    assert clock.thread_seconds == pytest.approx(2 * MEAN_SECONDS, rel=0.02)
