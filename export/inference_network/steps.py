"""The indices of each step into a table of the codes chosen so far.

The table has a row of zeros, then the features of each chosen code by rank. Neighbors that no patch of a step
has are neither gathered nor multiplied: coarse steps have four instead of eight, or none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from textual_vision.export.inference_network.head import neighbor_layer
from textual_vision.export.inference_network.text_attention import linear
from textual_vision.training.models.latent.lattice import NEIGHBORS
from textual_vision.training.models.latent.network import LatentNetwork
from textual_vision.training.models.latent.retrieved_pictures import CopyHead

Slots = tuple[int, ...]


class Turn(nn.Module):
    """The part of one turn's head that depends on the neighbors and on all codes so far."""

    mean: Tensor
    score: Tensor
    index: Tensor

    def __init__(self, first: int, index: Tensor, layer: nn.Linear, copy: CopyHead) -> None:
        """`first` codes are chosen; `index` (n, slots) has rows of the table; see `neighbor_layer`."""
        super().__init__()
        self.layer, self.codes, self.slots = layer, *index.shape
        self.retrieved = copy.score.out_features
        self.register_buffer("mean", torch.full((1, first + 1), 1 / first))
        # The share of each row in a code's copy score. It is a product of its own: its weights are on no int8
        # grid, and in one matrix with `layer` they would keep both in float.
        of_neighbors, of_all = copy.similarity_scale.detach()
        times = torch.zeros(self.codes, first + 1).scatter_add(1, index, torch.ones(index.shape))
        score = of_neighbors / NEIGHBORS * times + of_all / first
        self.register_buffer("score", score if self.slots > 0 else score[:1])
        after = torch.full((len(index), 1), first + 1)
        self.register_buffer("index", torch.cat([index, after], 1).flatten())

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the addends of the head's inputs (B, n, 1, H) and of the copy scores (B, n, 1, K).

        `features` is the table (B, 1 + first, D + K); n is 1 where all codes have the same addend.
        """
        mean = self.mean @ features
        if self.slots == 0:  # the same for all codes
            rows = mean.unsqueeze(2)
        else:
            gathered = torch.cat([features, mean], 1).index_select(1, self.index)
            rows = gathered.reshape(-1, self.codes, 1, (self.slots + 1) * features.shape[2])
        score = self.score @ features[:, :, -self.retrieved :]
        return self.layer(rows), score.unsqueeze(2)


class Step(nn.Module):
    """The indices of one step, and its turns."""

    near: Tensor
    content: Tensor
    patch: Tensor

    def __init__(
        self,
        near: Tensor,
        content: Tensor,
        cells: int,
        neighbors: nn.Linear | None,
        turns: Sequence[Turn | None],
    ) -> None:
        """`near` (n, k), `content` (n, patch²): rows of the table; `cells`: codes of a patch in each turn."""
        super().__init__()
        self.patches, self.neighbors = len(near), neighbors
        # Before the first turn no code is chosen.
        self.turns = nn.ModuleList(nn.Identity() if turn is None else turn for turn in turns)
        self.register_buffer("near", near.flatten())
        self.register_buffer("content", content.flatten())
        self.register_buffer("patch", torch.arange(self.patches).repeat_interleave(cells))

    def neighbor_states(self, features: Tensor) -> Tensor:
        """Return the part of the patches' states that depends on their neighbors, (B, n, W)."""
        assert self.neighbors is not None
        rows = features.index_select(1, self.near).reshape(-1, self.patches, self.neighbors.in_features)
        found: Tensor = self.neighbors(rows)
        return found

    def head_addends(self, turn: int, features: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return what `Turn` returns; None for the first turn of all."""
        found: tuple[Tensor, Tensor] | None = None
        if isinstance(self.turns[turn], Turn):
            found = self.turns[turn](features)
        return found

    def patch_features(self, features: Tensor) -> Tensor:
        """Return the features of the step's own codes by patch, (B, n, patch² * (D + K))."""
        width = len(self.content) // self.patches * features.shape[2]
        return features.index_select(1, self.content).reshape(-1, self.patches, width)


def steps_of(network: LatentNetwork) -> list[Step]:
    """Return all steps; those with the same neighbors share their weights."""
    schedule = network.schedule
    head_layers: dict[Slots, nn.Linear] = {}
    state_layers: dict[Slots, nn.Linear] = {}
    code_width = network.head.latent.out_features
    weight = network.neighbors.weight.unflatten(1, (NEIGHBORS, -1))
    content = schedule.patch_codes + 1
    by_patch = torch.cat([torch.zeros_like(content[:1]), content])

    def turn_of(first: int, last: int) -> Turn | None:
        if first == 0:
            return None
        slots, index = _used(schedule.code_neighbors[first:last])
        if slots not in head_layers:
            head_layers[slots] = neighbor_layer(network.head, slots, code_width)
        assert network.head.copy is not None
        return Turn(first, index, head_layers[slots], network.head.copy)

    def step_of(number: int) -> Step:
        here = slice(*schedule.patch_bounds[number : number + 2])
        slots, index = _used(schedule.patch_neighbors[here])
        if slots and slots not in state_layers:
            state_layers[slots] = linear(weight[:, list(slots)].flatten(1))
        turns = schedule.turns[number]
        cells = (turns[0][1] - turns[0][0]) // (here.stop - here.start)
        return Step(
            by_patch[index].flatten(1),
            content[here],
            cells,
            state_layers.get(slots),
            [turn_of(*turn) for turn in turns],
        )

    return [step_of(number) for number in range(network.config.steps)]


def _used(index: Tensor) -> tuple[Slots, Tensor]:
    """Return the columns of ranks (n, 8) that hold any neighbor, and these columns; 0 is none."""
    slots = tuple(slot for slot in range(index.shape[1]) if bool(index[:, slot].any()))
    return slots, index[:, list(slots)]
