"""Where each step of a drawing finds what it is told: places in the table of what is known so far.

The table has a row of nothing, then what is known of each code that is chosen, in their order. Neighbors
that no patch of a step can have are neither looked up nor multiplied by: coarse steps have four instead of
eight, or none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from textual_vision.export.inference_network.head import around_of
from textual_vision.export.inference_network.text_attention import linear
from textual_vision.training.models.latent.drafts import Follow
from textual_vision.training.models.latent.lattice import AROUND
from textual_vision.training.models.latent.network import LatentNetwork

Slots = tuple[int, ...]


class Turn(nn.Module):
    """What one turn's cells are told of the codes around them and of all so far."""

    mean: Tensor
    score: Tensor
    index: Tensor

    def __init__(self, first: int, index: Tensor, around: nn.Linear, follow: Follow) -> None:
        """`first`: how many codes are known; `index` (n, slots): rows of the table; see `around_of`."""
        super().__init__()
        self.around, self.cells, self.slots = around, *index.shape
        self.drafts = follow.draft.out_features
        self.register_buffer("mean", torch.full((1, first + 1), 1 / first))
        # By row, how much of it a cell's scores gain: a product of its own, for its numbers are on no grid,
        # and int8 could not hold the weights of `around` with them.
        near, overall = follow.sharpness.detach()
        times = torch.zeros(self.cells, first + 1).scatter_add(1, index, torch.ones(index.shape))
        score = near / AROUND * times + overall / first
        self.register_buffer("score", score if self.slots > 0 else score[:1])
        after = torch.full((len(index), 1), first + 1)
        self.register_buffer("index", torch.cat([index, after], 1).flatten())

    def forward(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """The table (B, 1 + first, D + K) -> what to add to what is near the cells, (B, n, 1, H), and to the
        drafts' scores, (B, n, 1, K); n is 1 where it is the same for all.
        """
        mean = self.mean @ known
        if self.slots == 0:  # the same for all cells
            rows = mean.unsqueeze(2)
        else:
            places = torch.cat([known, mean], 1).index_select(1, self.index)
            rows = places.reshape(-1, self.cells, 1, (self.slots + 1) * known.shape[2])
        score = self.score @ known[:, :, -self.drafts :]
        return self.around(rows), score.unsqueeze(2)


class Step(nn.Module):
    """What one step's patches are told, and which cells are theirs."""

    near: Tensor
    content: Tensor
    patch: Tensor

    def __init__(
        self, near: Tensor, content: Tensor, cells: int, entry: nn.Linear | None, turns: Sequence[Turn | None]
    ) -> None:
        """`near` (n, k), `content` (n, patch²): rows of the table; `cells` of a patch in each turn."""
        super().__init__()
        self.patches, self.entry = len(near), entry
        # The first turn of all knows nothing.
        self.turns = nn.ModuleList(nn.Identity() if turn is None else turn for turn in turns)
        self.register_buffer("near", near.flatten())
        self.register_buffer("content", content.flatten())
        self.register_buffer("patch", torch.arange(self.patches).repeat_interleave(cells))

    def entered(self, known: Tensor) -> Tensor:
        """What the step's patches are told of those around them, (B, n, W)."""
        assert self.entry is not None
        rows = known.index_select(1, self.near).reshape(-1, self.patches, self.entry.in_features)
        told: Tensor = self.entry(rows)
        return told

    def around(self, turn: int, known: Tensor) -> tuple[Tensor, Tensor] | None:
        """What a turn's cells are told of the codes around them."""
        found: tuple[Tensor, Tensor] | None = None
        if isinstance(self.turns[turn], Turn):
            found = self.turns[turn](known)
        return found

    def chosen(self, known: Tensor) -> Tensor:
        """What is known of the step's own codes, patch by patch, (B, n, patch² * (D + K))."""
        width = len(self.content) // self.patches * known.shape[2]
        return known.index_select(1, self.content).reshape(-1, self.patches, width)


def steps_of(network: LatentNetwork) -> list[Step]:
    """All steps; those with the same neighbors share their weights."""
    arounds: dict[Slots, nn.Linear] = {}
    entries: dict[Slots, nn.Linear] = {}
    width = network.mixing.shape[1]
    weight = network.entry.weight.unflatten(1, (AROUND, -1))
    content = network.content + 1
    by_patch = torch.cat([torch.zeros_like(content[:1]), content])

    def turn_of(first: int, last: int) -> Turn | None:
        if first == 0:
            return None
        slots, index = _used(network.around[first:last])
        if slots not in arounds:
            arounds[slots] = around_of(network.head, slots, width)
        assert network.head.follow is not None
        return Turn(first, index, arounds[slots], network.head.follow)

    def step_of(number: int) -> Step:
        here = slice(*network.bounds[number : number + 2])
        slots, index = _used(network.near[here])
        if slots and slots not in entries:
            entries[slots] = linear(weight[:, list(slots)].flatten(1))
        turns = network.turns[number]
        cells = (turns[0][1] - turns[0][0]) // (here.stop - here.start)
        return Step(
            by_patch[index].flatten(1),
            content[here],
            cells,
            entries.get(slots),
            [turn_of(*turn) for turn in turns],
        )

    return [step_of(number) for number in range(network.config.steps)]


def _used(index: Tensor) -> tuple[Slots, Tensor]:
    """Which columns of places (n, 8), 0 for none, hold any, and those."""
    slots = tuple(slot for slot in range(index.shape[1]) if bool(index[:, slot].any()))
    return slots, index[:, list(slots)]
