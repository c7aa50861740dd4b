"""Histograms and the thresholds that are read off them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.calibration.histogram import MagnitudeHistogram
from textual_vision.calibration.ranges import (
    LEVELS,
    METHODS,
    SMOOTHING,
    scale_from_threshold,
    threshold_from_histogram,
)
from textual_vision.runtime.errors import UsageError

RANDOM = np.random.default_rng(0)


def histogram_of(*parts: np.ndarray) -> MagnitudeHistogram:
    histogram = MagnitudeHistogram("layer.out")
    for part in parts:
        histogram.add(part.astype(np.float32))
    return histogram


def error_of(values: np.ndarray, threshold: float) -> float:
    scale = threshold / LEVELS
    return float(np.mean((values - np.clip(np.rint(values / scale), -LEVELS, LEVELS) * scale) ** 2))


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), min_size=1, max_size=6))
def test_a_histogram_counts_every_value_whatever_the_order_of_the_parts(parts: list[list[float]]) -> None:
    arrays = [np.array(part) for part in parts]
    forward, backward = histogram_of(*arrays), histogram_of(*reversed(arrays))
    np.testing.assert_array_equal(forward.counts, backward.counts)
    assert forward.counts.sum() + forward.zeros == sum(len(part) for part in parts)
    assert forward.largest == max(abs(np.float32(value)) for part in parts for value in part)


def test_merged_histograms_are_the_histogram_of_everything() -> None:
    small, large = RANDOM.normal(size=500), RANDOM.normal(size=300) * 40
    merged = histogram_of(small)
    merged.merge(histogram_of(large))
    whole = histogram_of(small, large)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    assert (merged.low, merged.high) == (whole.low, whole.high)


def test_memory_does_not_grow_with_what_was_seen() -> None:
    histogram = histogram_of(RANDOM.normal(size=1000))
    part = RANDOM.normal(size=1000).astype(np.float32)
    tracemalloc.start()
    histogram.add(part)
    first = tracemalloc.get_traced_memory()[0]
    for _ in range(200):
        histogram.add(part)
    last = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert last - first < 10_000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e35])
def test_activations_that_are_no_numbers_name_their_tensor(bad: float) -> None:
    with pytest.raises(UsageError, match=r"tensor 'layer\.out': 1 of 3 activations"):
        histogram_of(np.array([0.0, bad, 1.0]))


@pytest.mark.parametrize(("value", "threshold"), [(0.0, 1.0), (3.5, 3.5), (-2.0, 2.0)])
@pytest.mark.parametrize("method", METHODS)
def test_activations_that_never_vary_get_their_magnitude(value: float, threshold: float, method: str) -> None:
    histogram = histogram_of(np.full(8, value))
    assert histogram.is_constant
    assert threshold_from_histogram(histogram, method) == threshold


def test_a_tensor_that_was_never_seen_is_an_error() -> None:
    with pytest.raises(UsageError, match="no activation was seen"):
        threshold_from_histogram(MagnitudeHistogram("layer.out"), "mse")


def test_an_unknown_method_is_an_error_that_lists_the_methods() -> None:
    with pytest.raises(UsageError, match="unknown range method 'median'") as caught:
        threshold_from_histogram(histogram_of(np.arange(3.0)), "median")
    assert all(method in caught.value.hint for method in METHODS)


def test_minmax_is_the_largest_magnitude() -> None:
    assert threshold_from_histogram(histogram_of(np.array([-7.25, 2.0])), "minmax") == 7.25


def test_percentile_leaves_out_a_lone_outlier() -> None:
    values = np.append(RANDOM.normal(size=100_000), 500.0)
    assert threshold_from_histogram(histogram_of(values), "percentile") < 6.0


def test_mse_is_no_worse_than_any_other_method() -> None:
    for values in (RANDOM.normal(size=20_000), RANDOM.laplace(size=20_000), RANDOM.uniform(-1, 1, 20_000)):
        histogram = histogram_of(values)
        errors = {m: error_of(values, threshold_from_histogram(histogram, m)) for m in METHODS}
        assert errors["mse"] <= 1.02 * min(errors.values())


def test_entropy_clips_a_long_tail_but_not_a_flat_distribution() -> None:
    flat, tail = RANDOM.uniform(-1, 1, 500_000), RANDOM.laplace(size=500_000)
    assert threshold_from_histogram(histogram_of(flat), "entropy") > 0.9
    assert threshold_from_histogram(histogram_of(tail), "entropy") < 0.9 * np.abs(tail).max()


@given(st.floats(0.001, 1e6), st.sampled_from(["minmax", "percentile", "mse"]))
def test_thresholds_scale_with_the_values(size: float, method: str) -> None:
    values = np.linspace(-1, 1, 999)
    one = threshold_from_histogram(histogram_of(values), method)
    many = threshold_from_histogram(histogram_of(values * size), method)
    assert many / size == pytest.approx(one, rel=0.05)
    assert 0 < many <= size * 1.0001


def test_scales_are_float32() -> None:
    assert scale_from_threshold(1.0) == float(np.float32(1 / 127))


def divergence(counts: np.ndarray, edge: int) -> float:
    """KL(clipped ‖ the same in 128 levels) as it is defined, bin by bin."""
    reference = counts[:edge].astype(np.float64)
    inside = reference > 0
    level = (np.arange(edge) * (LEVELS + 1)) // edge
    total = np.bincount(level, weights=reference, minlength=LEVELS + 1)
    filled = np.bincount(level, weights=inside.astype(np.float64), minlength=LEVELS + 1)
    spread = np.where(inside, (total / np.maximum(filled, 1.0))[level], 0.0)
    reference[-1] += counts[edge:].sum()
    spread = np.where((reference > 0) & (spread == 0), SMOOTHING, spread)
    p, q = reference / reference.sum(), spread / spread.sum()
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


@pytest.mark.parametrize("spread", [lambda n: RANDOM.normal(size=n), lambda n: RANDOM.standard_t(2, size=n)])
@pytest.mark.parametrize("size", [50, 20_000])
def test_entropy_takes_the_threshold_with_the_least_divergence(
    spread: Callable[[int], np.ndarray], size: int
) -> None:
    histogram = histogram_of(spread(size))
    last = int(np.flatnonzero(histogram.counts)[-1]) + 1
    edges = np.unique(np.linspace(min(128, last), last, 160).astype(np.int64))
    best = edges[np.argmin([divergence(histogram.counts, int(edge)) for edge in edges])]
    expected = min(best * histogram.limit / len(histogram.counts), histogram.largest)
    assert threshold_from_histogram(histogram, "entropy") == expected
