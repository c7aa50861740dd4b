"""Is it real, and does it show what the words say?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from textual_vision.training.config import ModelConfig


class Discriminator(nn.Module):
    """DCGAN's strided convolutions, joined at 4x4 with the embedded sentence (Reed et al. 2016)."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        config = model.discriminator
        self.blocks = nn.ModuleList()
        below = 3
        for above in config.channels:
            conv: nn.Module = nn.Conv2d(below, above, 4, stride=2, padding=1)
            if config.norm == "spectral":
                conv = spectral_norm(conv)
            layers = [conv, nn.BatchNorm2d(above)] if config.norm == "batch" and below != 3 else [conv]
            self.blocks.append(nn.Sequential(*layers, nn.LeakyReLU(0.2)))
            below = above
        self.sentence = nn.Linear(model.text.width, below)
        self.join = nn.Sequential(nn.Conv2d(2 * below, below, 3, padding=1), nn.LeakyReLU(0.2))
        self.logit = nn.Conv2d(below, 1, 4)

    def forward(self, pictures: Tensor, sentence: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Pictures (B, 3, H, W) in [-1, 1], sentence (B, C) -> logits (B,), features of each scale."""
        features = []
        x = pictures
        for block in self.blocks:
            x = block(x)
            features.append(x)
        said = self.sentence(sentence)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        logits = self.logit(self.join(torch.cat([x, said], dim=1)))
        return logits.flatten(), features
