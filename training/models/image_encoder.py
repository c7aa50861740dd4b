"""Encoders for training only: pictures to latents of the codebook, and to a posterior over the noise."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.config import ModelConfig

POSTERIOR_CHANNELS = (24, 48, 96, 96)


class ImageEncoder(nn.Module):
    """Strided convolutions with a small receptive field: a code describes the look of one patch.

    Edges are padded by replication: zeros would be another color and need codes of their own.
    """

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        widths = (3, *model.codebook.channels)
        layers: list[nn.Module] = []
        for below, above in itertools.pairwise(widths):
            layers += [nn.Conv2d(below, above, 4, 2, 1, padding_mode="replicate"), nn.LeakyReLU(0.2)]
        self.down = nn.Sequential(*layers)
        self.mix = nn.Sequential(
            nn.Conv2d(widths[-1], widths[-1], 3, padding=1, padding_mode="replicate"), nn.LeakyReLU(0.2)
        )
        self.latents = nn.Conv2d(widths[-1], model.codebook.codebook_dim, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> unit latents (B, h, w, D)."""
        x = self.down(pictures)
        return F.normalize(self.latents(x + self.mix(x)).permute(0, 2, 3, 1), dim=3)


class Posterior(nn.Module):
    """q(noise | picture), a diagonal normal (Kingma & Welling 2014)."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        below = 3
        for above in POSTERIOR_CHANNELS:
            layers += [nn.Conv2d(below, above, 4, 2, 1), nn.BatchNorm2d(above), nn.LeakyReLU(0.2)]
            below = above
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(below, 2 * model.noise)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, W) -> mean, log variance (B, Z), the latter within [-8, 4]."""
        mean, log_variance = self.head(self.body(pictures).mean((2, 3))).chunk(2, dim=1)
        return mean, log_variance.clamp(-8.0, 4.0)


def reparameterize(mean: Tensor, log_variance: Tensor, normal: Tensor) -> Tensor:
    """mean + std * normal, all (B, Z)."""
    return mean + torch.exp(0.5 * log_variance) * normal
