"""The order in which codes are chosen, and which of them a position has around it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from textual_vision.training.models.latent.lattice import Integers, cells_of, lattice_of

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
def test_neighbors_are_the_nearest_that_were_chosen_before(grid: int, steps: int, halved: int) -> None:
    lattice = lattice_of(grid, steps, halved)
    assert (lattice.neighbors[: lattice.bounds[1]] == -1).all()
    for step in range(1, steps):
        before = lattice.bounds[step]
        for place in range(before, lattice.bounds[step + 1]):
            near = lattice.neighbors[place][lattice.neighbors[place] >= 0]
            assert len(set(near)) == len(near) > 0
            assert near.max() < before
            row, column = np.divmod(lattice.order, grid)
            gap = (row - row[place]) ** 2 + (column - column[place]) ** 2
            assert sorted(gap[near]) == sorted(gap[:before])[: len(near)]


def test_inside_a_grid_four_or_eight_codes_are_around() -> None:
    lattice = lattice_of(16, 8, 2)
    counts = (lattice.neighbors >= 0).sum(1)
    most = [int(counts[a:b].max()) for a, b in pairwise(lattice.bounds)]
    assert most == [0, 4, 4, 4, 4, 8, 4, 8]


@pytest.mark.parametrize(("side", "patch"), [(8, 2), (4, 1), (4, 4)])
def test_every_code_is_chosen_once_with_its_patch(side: int, patch: int) -> None:
    lattice = lattice_of(side, 4, 1)
    cells, grid = cells_of(lattice, side, patch), side * patch
    assert sorted(cells.order.tolist()) == list(range(grid * grid))
    ends = [place for step in cells.turns for turn in step for place in turn]
    assert ends[0] == 0 and ends[-1] == grid * grid and ends[1:-1:2] == ends[2::2]
    for step, turns in enumerate(cells.turns):
        assert turns[0][0] == lattice.bounds[step] * patch**2
        assert set(cells.patch[turns[0][0] : turns[-1][1]]) == set(range(*lattice.bounds[step : step + 2]))
    row, column = np.divmod(cells.order, grid)
    assert (lattice.order[cells.patch] == row // patch * side + column // patch).all()
    assert (cells.content[cells.patch, cells.cell] == np.arange(grid * grid)).all()


def test_each_turn_takes_as_many_cells_of_every_patch_of_its_step_and_in_one_order() -> None:
    lattice = lattice_of(8, 8, 2)
    cells = cells_of(lattice, 8, 2)
    for step, turns in enumerate(cells.turns):
        patches = np.arange(*lattice.bounds[step : step + 2])
        for number, (start, end) in enumerate(turns):
            assert (cells.patch[start:end] == patches.repeat(2)).all()
            assert cells.cell[start:end].tolist() == [2 * number, 2 * number + 1] * len(patches)


def test_a_code_sees_those_beside_it_that_earlier_turns_chose() -> None:
    cells = cells_of(lattice_of(8, 8, 2), 8, 2)
    row, column = np.divmod(cells.order, 16)
    for first, second in cells.turns:
        for start, end in (first, second):
            assert cells.neighbors[start:end].max(initial=-1) < start
        for place in range(*second):
            near = cells.neighbors[place][cells.neighbors[place] >= 0]
            gap = abs(row[near] - row[place]) + abs(column[near] - column[place])
            assert (gap == 1).sum() >= 2  # its patch's own
