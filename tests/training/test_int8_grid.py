"""Weights that int8 holds without a loss."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.training.int8_grid import (
    LARGEST,
    int8_row_scales,
    round_to_int8_grid,
    round_weights_to_int8_grid,
)


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e3))
def test_what_is_on_the_grid_is_int8_times_a_step_to_the_last_bit(seed: int, size: float) -> None:
    weight = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(seed)) * size
    found, steps = round_to_int8_grid(weight), int8_row_scales(weight)
    whole = (found / steps).round()
    assert bool((whole.abs() <= LARGEST).all())
    assert torch.equal(whole.to(torch.int8).to(torch.float32) * steps, found)
    assert bool(((found - weight).abs() <= steps * 0.5001).all())
    assert torch.equal(int8_row_scales(found), steps)
    assert torch.equal(round_to_int8_grid(found), found)


def test_rows_of_nothing_stay_nothing() -> None:
    assert torch.equal(round_to_int8_grid(torch.zeros(2, 4)), torch.zeros(2, 4))


def test_the_codebook_and_kernels_stay() -> None:
    weights = {
        "codebook.rows": torch.randn(4, 3),
        "generator.k": torch.randn(2, 2, 3, 3),
        "a.weight": torch.randn(4, 3),
    }
    found = round_weights_to_int8_grid(weights)
    assert found["codebook.rows"] is weights["codebook.rows"]
    assert found["generator.k"] is weights["generator.k"]
    assert torch.equal(found["a.weight"], round_to_int8_grid(weights["a.weight"]))
