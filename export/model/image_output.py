"""Pixels, uint8 and channels last, from the float picture that a network gives, inside its graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

LEVELS = 255
ROUND, TRUNCATE = "round", "truncate"


class PixelModule(nn.Module):
    """`module`, whose outputs number `indices` become uint8 (batch, H, W, channels).

    They are float (batch, channels, H, W), or (batch, H, W) for gray. Values of `image_range`
    (low, high) become 0 … 255, others are clamped. `rounding` is "round" to the nearest level, or "truncate"
    to the one below.
    """

    def __init__(
        self,
        module: nn.Module,
        image_range: tuple[float, float],
        *,
        indices: tuple[int, ...] = (0,),
        rounding: str = ROUND,
    ) -> None:
        super().__init__()
        self.module, self.indices, self.rounding = module, indices, rounding
        self.low, self.high = image_range

    def forward(self, *inputs: Tensor) -> Any:
        """The module's outputs as a tuple, the pictures as pixels."""
        outputs = self.module(*inputs)
        if isinstance(outputs, Mapping):
            outputs = tuple(outputs.values())
        values = list(outputs) if isinstance(outputs, tuple | list) else [outputs]
        for index in self.indices:
            values[index] = self.pixels(values[index])
        return tuple(values) if len(values) > 1 else values[0]

    def pixels(self, picture: Tensor) -> Tensor:
        """uint8 (batch, H, W, channels) of a float picture."""
        if picture.dim() == 3:
            picture = picture[:, None]
        levels = (picture.float() - self.low) * (LEVELS / (self.high - self.low))
        levels = levels.round() if self.rounding == ROUND else levels.floor()
        return levels.clamp(0, LEVELS).to(torch.uint8).permute(0, 2, 3, 1)
