"""The decode schedule: the codes that each step chooses, and every index that the network gathers by."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from textual_vision.training.config import LatentConfig
from textual_vision.training.models.attention import MASKED_SCORE
from textual_vision.training.models.latent.lattice import cells_of, lattice_of


class DecodeSchedule(nn.Module):
    """Buffers of N codes in P patches; none is part of a checkpoint.

    A *rank* is a place in the order of choice. In `patch_neighbors` and `code_neighbors` ranks are counted
    from 1; 0 is a neighbor that does not exist or is chosen later. Step i chooses the patches
    `patch_bounds[i]` to `patch_bounds[i + 1]`, and in its turn k the codes `turns[i][k]`.
    """

    order: Tensor  # int64 (N,): row-major positions of the codes by rank
    rank: Tensor  # int64 (N,): ranks by row-major position
    patch_order: Tensor  # int64 (P,): row-major positions of the patches by rank
    patch_neighbors: Tensor  # int64 (P, 8)
    patch_codes: Tensor  # int64 (P, patch²): ranks of a patch's codes
    code_neighbors: Tensor  # int64 (N, 8)
    patch_of_code: Tensor  # int64 (N,): the rank of a code's patch
    cell_of_code: Tensor  # int64 (N,): the number of a code in its patch
    first_of_turn: Tensor  # int64 (N,): the first rank of a code's turn
    attention_bias: Tensor  # float32 (1, 1, P, 2P): of chosen patches, then of the patches of the same step

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.steps = config.steps
        side = config.grid // config.patch
        lattice = lattice_of(side, config.steps, config.split_doublings)
        cells = cells_of(lattice, side, config.patch)
        self.patch_bounds, self.turns = lattice.bounds, cells.turns
        step = torch.tensor(np.repeat(range(config.steps), np.diff(self.patch_bounds)))
        firsts = [np.full(end - start, start) for turns in self.turns for start, end in turns]
        is_unknown, is_other_step = step[:, None] <= step, step[:, None] != step
        found = {
            "order": torch.tensor(cells.order),
            "rank": torch.tensor(cells.order.argsort()),
            "patch_order": torch.tensor(lattice.order),
            "patch_neighbors": torch.tensor(lattice.neighbors + 1),
            "patch_codes": torch.tensor(cells.content),
            "code_neighbors": torch.tensor(cells.neighbors + 1),
            "patch_of_code": torch.tensor(cells.patch),
            "cell_of_code": torch.tensor(cells.cell),
            "first_of_turn": torch.tensor(np.concatenate(firsts)),
            "attention_bias": torch.cat([is_unknown, is_other_step], 1)[None, None] * MASKED_SCORE,
        }
        for name, value in found.items():
            self.register_buffer(name, value, persistent=False)

    def codes_of_step(self, step: int) -> tuple[int, int]:
        """Return the first rank that a step chooses, and the first of the next step."""
        return self.turns[step][0][0], self.turns[step][-1][1]

    @property
    def fine_steps(self) -> int:
        """The number of the last steps that make two doublings and choose three quarters of the codes."""
        coarse = self.patch_bounds[-1] // 4
        return max(1, sum(start >= coarse for start in self.patch_bounds[:-1]))
