"""Words and noise to a grid of latents, whose nearest codes are the drawing's plan."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from textual_vision.training.attention import GridBlock, score_bias
from textual_vision.training.blocks import Condition, Upsample
from textual_vision.training.config import ModelConfig

POSITION_STD = 0.02


class LatentNetwork(nn.Module):
    """Attention on a coarse grid, a transposed convolution up to the full one, attention there."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        config, text_width = model.latent, model.text.width
        self.config = config
        self.condition = Condition(text_width, model.noise, model.generator.condition)
        self.start = nn.Linear(model.generator.condition, config.width)
        self.queries = nn.Parameter(torch.randn(config.coarse**2, config.width) * POSITION_STD)
        self.coarse = nn.ModuleList(
            GridBlock(config.width, config.heads, text_width) for _ in range(config.blocks)
        )
        self.up: nn.Module = nn.Identity()
        width = config.width
        if config.grid == 2 * config.coarse:
            width = config.fine_width
            self.up = Upsample(config.width, width, model.generator.condition)
        self.fine_position = nn.Parameter(torch.randn(config.grid**2, width) * POSITION_STD)
        self.fine = nn.ModuleList(
            GridBlock(width, config.fine_heads, text_width) for _ in range(config.fine_blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.latents = nn.Linear(width, model.codebook.width)

    def forward(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Tensor:
        """text (B, T, C), attention_mask (B, T), noise (B, Z) -> latents float32 (B, h, w, D)."""
        condition = self.condition(text, attention_mask, noise)
        bias = score_bias(attention_mask)
        x = self.queries + self.start(condition).unsqueeze(1)  # (B, coarse * coarse, W)
        for block in self.coarse:
            x = block(x, text, bias)
        if not isinstance(self.up, nn.Identity):
            grid = x.transpose(1, 2).unflatten(2, (self.config.coarse, self.config.coarse))
            x = self.up(grid, condition).flatten(2).transpose(1, 2)
        x = x + self.fine_position
        for block in self.fine:
            x = block(x, text, bias)
        latents = self.latents(self.norm(x))
        return latents.unflatten(1, (self.config.grid, self.config.grid))  # type: ignore[no-any-return]
