"""The generator: codebook vectors to pixels, a conditional DCGAN of transposed convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from textual_vision.training.config import ModelConfig
from textual_vision.training.models.blocks import ConditionalNorm, ConditionProjection, Residual, Upsample


class Generator(nn.Module):
    """Transposed convolutions, batch norm and ReLU, conditioned at every resolution."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        config = model.generator
        self.condition = ConditionProjection(model.text.embed_dim, model.noise, config.condition)
        self.entry = nn.Conv2d(model.codebook.codebook_dim, config.channels[0], 3, padding=1, bias=False)
        self.entry_norm = ConditionalNorm(config.channels[0], config.condition)
        self.residuals = nn.ModuleList(
            Residual(config.channels[0], config.condition) for _ in range(config.residual_blocks)
        )
        pairs = zip(config.channels[:-1], config.channels[1:], strict=True)
        self.ups = nn.ModuleList(Upsample(below, above, config.condition) for below, above in pairs)
        self.color = nn.Conv2d(config.channels[-1], 3, 3, padding=1)

    def forward(self, rows: Tensor, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Tensor:
        """rows (B, D, h, w), text (B, T, C), mask (B, T), noise (B, Z) -> (B, 3, H, W) in [-1, 1]."""
        condition = self.condition(text, attention_mask, noise)
        x = self.entry_norm(self.entry(rows), condition)
        for residual in self.residuals:
            x = residual(x, condition)
        for up in self.ups:
            x = up(x, condition)
        return torch.tanh(self.color(x))
