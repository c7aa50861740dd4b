"""Conditioned blocks of DCGAN: transposed convolution, batch norm, FiLM, ReLU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.models.text_encoder import sentence_from_text


class ConditionProjection(nn.Module):
    """One vector from the attention-weighted sentence and the noise, for every FiLM layer."""

    def __init__(self, text_width: int, noise_width: int, width: int) -> None:
        super().__init__()
        self.sentence = nn.Linear(text_width, width)
        self.noise = nn.Linear(noise_width, width, bias=False)

    def forward(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Tensor:
        """text (B, T, C), attention_mask (B, T), noise (B, Z) -> (B, width)."""
        sentence = self.sentence(sentence_from_text(text, attention_mask))
        return F.relu(sentence + self.noise(noise))


class ConditionalNorm(nn.Module):
    """Batch norm, then a scale and shift from the condition (FiLM, Perez et al. 2018), then ReLU."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.film = nn.Linear(condition, 2 * channels)
        nn.init.normal_(self.film.weight, std=0.02)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, channels, h, w), condition (B, width) -> like x."""
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        return F.relu(self.norm(x) * (1 + scale) + shift)


class Upsample(nn.Module):
    """A transposed convolution (kernel 4, stride 2, padding 1) that doubles the size, then a residual."""

    def __init__(self, channels_in: int, channels: int, condition: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels_in, channels, 4, stride=2, padding=1, bias=False)
        self.norm = ConditionalNorm(channels, condition)
        self.residual = Residual(channels, condition)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, channels_in, h, w) -> (B, channels, 2h, 2w)."""
        return self.residual(self.norm(self.up(x), condition), condition)  # type: ignore[no-any-return]


class Residual(nn.Module):
    """x plus a conditioned 3 x 3 convolution of x."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = ConditionalNorm(channels, condition)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, channels, h, w) -> like x."""
        return x + self.norm(self.conv(x), condition)  # type: ignore[no-any-return]


def pixels_from_signed(x: Tensor) -> Tensor:
    """[-1, 1] float (B, 3, H, W) -> uint8 (B, H, W, 3), rounded half to even, clipped."""
    pixels = (x * 127.5 + 127.5).round().clamp(0, 255)
    return pixels.permute(0, 2, 3, 1).to(torch.uint8)  # cast last: TensorRT has no uint8 inside a graph
