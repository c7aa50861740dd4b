"""The order in which the codes of a grid are chosen: a coarse lattice first, then the positions between.

A square or a quincunx lattice becomes twice as dense by each doubling (the order of Besnier et al. 2025).
Each of the last doublings, which add most of the codes, can take two steps: the second is conditioned on the
first. A position of the lattice is a patch, a square of neighboring codes. The codes of a patch are chosen in
turns: every other one, then those between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Neighbors of a position: four of the coarser lattice, four of the first step of its doubling.
NEIGHBORS = 8
STRAIGHT = ((-1, 0), (0, -1), (0, 1), (1, 0))
DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))

Integers = NDArray[np.int64]
Offsets = list[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """The order of N positions, and their neighbors.

    `order` int64 (N,) has row-major positions in the order of choice; step i chooses `bounds[i]` to
    `bounds[i + 1]` of them. `neighbors` int64 (N, 8) has the ranks in `order` of each position's neighbors
    that an earlier step chooses, -1 for none.
    """

    order: Integers
    bounds: tuple[int, ...]
    neighbors: Integers


def lattice_of(grid: int, steps: int, halved: int) -> Lattice:
    """Return the lattice of `grid` rows and columns; the last `halved` doublings take two of `steps` each."""
    doublings = steps - halved - 1
    shift = 2 ** ((doublings + 1) // 2) // 2  # centers the coarsest lattice
    row, column = np.indices((grid, grid)) + shift
    chosen = np.zeros((grid, grid), np.int64)  # the step of each position
    offsets: list[Offsets] = [[]]  # of neighbors, for each step
    for left in range(doublings - 1, -1, -1):  # doublings after this one
        stride = 2 ** (left // 2)
        fresh = _on_lattice(row, column, left) & ~_on_lattice(row, column, left + 1)
        chosen[fresh] = len(offsets)
        # Centers of a square lattice's cells make it a quincunx; those of a quincunx's make it a square.
        nearest, next_nearest = (DIAGONAL, STRAIGHT) if left % 2 == 1 else (STRAIGHT, DIAGONAL)
        around = [(stride * y, stride * x) for y, x in nearest]
        offsets.append(around)
        if left < halved:
            apart = 2 * stride if left % 2 == 1 else stride
            odd = (row // apart + (column // apart if left % 2 == 1 else 0)) % 2 == 1
            chosen[fresh & odd] = len(offsets)
            offsets.append(around + [(apart * y, apart * x) for y, x in next_nearest])
    order = chosen.ravel().argsort(kind="stable")
    bounds = (0, *np.bincount(chosen.ravel(), minlength=steps).cumsum().tolist())
    return Lattice(order=order, bounds=bounds, neighbors=_neighbors(chosen, order, offsets))


def _on_lattice(row: Integers, column: Integers, halvings: int) -> NDArray[np.bool_]:
    """Return the mask of the positions that are left after so many halvings."""
    stride = 2 ** (halvings // 2)
    found: NDArray[np.bool_] = (row % stride == 0) & (column % stride == 0)
    if halvings % 2 == 1:
        found &= (row // stride + column // stride) % 2 == 0
    return found


def _neighbors(chosen: Integers, order: Integers, offsets: list[Offsets]) -> Integers:
    grid, place = len(chosen), order.argsort()
    found = np.full((grid * grid, NEIGHBORS), -1, np.int64)
    for index, position in enumerate(order.tolist()):
        y, x = divmod(position, grid)
        for number, (down, right) in enumerate(offsets[chosen[y, x]]):
            near = (y + down, x + right)
            if min(near) >= 0 and max(near) < grid and chosen[near] < chosen[y, x]:
                found[index, number] = place[near[0] * grid + near[1]]
    return found


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The order of the N = P * patch² codes of P patches.

    `order` (N,): row-major positions in the order of choice: step by step, turn by turn, patch by patch;
    `turns[i]`: first and last rank of each turn of step i;
    `patch` (N,): the rank of each code's patch in the lattice's order;
    `cell` (N,): the number of each code in its patch, in the order of turns;
    `content` (P, patch²): the ranks of each patch's codes, in the same order;
    `neighbors` (N, 8): the ranks of each code's neighbors that an earlier turn chooses, -1 for none.
    """

    order: Integers
    turns: tuple[tuple[tuple[int, int], ...], ...]
    patch: Integers
    cell: Integers
    content: Integers
    neighbors: Integers


def cells_of(lattice: Lattice, side: int, patch: int) -> Cells:
    """Return the order of the codes of `side` rows and columns of patches in the order of `lattice`."""
    grid, turns = side * patch, min(2, patch**2)
    y, x = np.indices((grid, grid)).reshape(2, -1)
    place = lattice.order.argsort()[y // patch * side + x // patch]
    corner, turn = y % patch * patch + x % patch, (y % patch + x % patch) % 2
    chosen = np.searchsorted(lattice.bounds, place, side="right") * turns - turns + turn
    order = np.lexsort((corner, place, chosen))
    rank = order.argsort()
    content = rank[np.lexsort((corner, turn, place))].reshape(side * side, patch**2)
    cell = np.empty(grid * grid, np.int64)
    cell[content] = np.arange(patch**2)
    ends = np.bincount(chosen).cumsum().tolist()
    pairs = list(zip([0, *ends[:-1]], ends, strict=True))
    offsets = [list(STRAIGHT + DIAGONAL)] * len(ends)
    return Cells(
        order=order,
        turns=tuple(tuple(pairs[i : i + turns]) for i in range(0, len(pairs), turns)),
        patch=place[order],
        cell=cell,
        content=content,
        neighbors=_neighbors(chosen.reshape(grid, grid), order, offsets),
    )
