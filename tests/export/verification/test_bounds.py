"""The upper bound of a share of bad pictures."""

from __future__ import annotations

import pytest

from textual_vision.export.verification.bounds import smallest_visible_share, upper_bound


@pytest.mark.parametrize("count", [1, 8, 96, 3840])
def test_without_failures_the_bound_has_a_closed_form(count):
    assert upper_bound(0, count) == pytest.approx(1 - 0.05 ** (1 / count), rel=1e-9)
    assert smallest_visible_share(count) == upper_bound(0, count)


# scipy.stats.beta.ppf(0.95, failures + 1, count - failures), scipy 1.17.1.
@pytest.mark.parametrize(
    ("failures", "count", "quantile"),
    [(1, 10, 0.394163), (5, 10, 0.777559), (3, 128, 0.059459), (19, 20, 0.997439), (1, 96, 0.048462)],
)
def test_the_bound_is_a_quantile_of_the_beta_distribution(failures, count, quantile):
    assert upper_bound(failures, count) == pytest.approx(quantile, abs=1e-6)


def test_nothing_is_known_when_all_fail():
    assert upper_bound(4, 4) == 1.0


def test_a_share_of_no_pictures_is_no_number():
    with pytest.raises(ValueError, match="0 failures of 0"):
        upper_bound(0, 0)
