"""The steps of a loop whose tensors are kept."""

import numpy as np
import pytest

from textual_vision.export.model.running import KEPT_LIMIT_BYTES, kept_steps


@pytest.mark.parametrize("steps", [1, 2, 100])
def test_all_steps_are_kept_where_memory_allows(steps):
    assert kept_steps(steps, [np.zeros(4, np.float32)]) == frozenset(range(steps))


def test_a_stage_outside_of_loops_is_always_kept():
    assert kept_steps(1, [np.empty(KEPT_LIMIT_BYTES, np.uint8)] * 2) == {0}


def test_of_a_large_loop_first_last_and_some_between_are_kept():
    quarter = np.empty(KEPT_LIMIT_BYTES // 4, np.uint8)
    assert kept_steps(256, [quarter]) == {0, 85, 170, 255}
    assert kept_steps(256, [quarter] * 8) == {0, 255}
