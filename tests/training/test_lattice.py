"""The order in which codes are chosen, and which of them a position has around it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from textual_vision.training.lattice import Integers, lattice_of

SIZES = [(16, 6, 0), (16, 8, 2), (16, 7, 0), (8, 4, 0), (8, 6, 2), (4, 4, 1), (4, 1, 0), (32, 10, 2)]


def gaps(known: Integers, grid: int) -> Integers:
    """Squared distances on a grid whose edges meet, (N, N); a position's own is huge."""
    row, column = np.divmod(known, grid)
    down, right = abs(row[:, None] - row), abs(column[:, None] - column)
    gap = np.minimum(down, grid - down) ** 2 + np.minimum(right, grid - right) ** 2
    return gap + np.eye(len(known), dtype=np.int64) * 10**6


@pytest.mark.parametrize(("grid", "steps", "halved"), SIZES)
def test_every_doubling_makes_the_lattice_twice_as_dense(grid: int, steps: int, halved: int) -> None:
    lattice = lattice_of(grid, steps, halved)
    assert sorted(lattice.order.tolist()) == list(range(grid * grid))
    assert len(lattice.bounds) == steps + 1
    doublings = steps - 1 - halved
    for left in range(doublings, 0, -1):
        known = grid * grid >> left
        assert known in lattice.bounds
        # Squared, and for all the same.
        assert set(gaps(lattice.order[:known], grid).min(1).tolist()) == {2**left}


@pytest.mark.parametrize(("grid", "steps", "halved"), [size for size in SIZES if size[2]])
def test_the_last_doublings_take_two_equal_steps(grid: int, steps: int, halved: int) -> None:
    bounds = lattice_of(grid, steps, halved).bounds
    taken = [b - a for a, b in pairwise(bounds)]
    for first in range(steps - 2 * halved, steps, 2):
        assert taken[first] == taken[first + 1] == bounds[first] // 2


@pytest.mark.parametrize(("grid", "steps", "halved"), SIZES)
def test_neighbours_are_the_nearest_that_were_chosen_before(grid: int, steps: int, halved: int) -> None:
    lattice = lattice_of(grid, steps, halved)
    assert (lattice.neighbours[: lattice.bounds[1]] == -1).all()
    for step in range(1, steps):
        before = lattice.bounds[step]
        for place in range(before, lattice.bounds[step + 1]):
            near = lattice.neighbours[place][lattice.neighbours[place] >= 0]
            assert len(set(near)) == len(near) > 0
            assert near.max() < before
            row, column = np.divmod(lattice.order, grid)
            gap = (row - row[place]) ** 2 + (column - column[place]) ** 2
            assert sorted(gap[near]) == sorted(gap[:before])[: len(near)]


def test_inside_a_grid_four_or_eight_codes_are_around() -> None:
    lattice = lattice_of(16, 8, 2)
    counts = (lattice.neighbours >= 0).sum(1)
    most = [int(counts[a:b].max()) for a, b in pairwise(lattice.bounds)]
    assert most == [0, 4, 4, 4, 4, 8, 4, 8]
