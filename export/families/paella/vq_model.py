"""The decoder of Paella's VQ-GAN: a picture from a grid of codes, by depthwise residual blocks.

Rampas, Pernias, Aubreville, "A novel sampling scheme for text- and image-conditional image synthesis in
quantized latent spaces", 2022. Keys are those of its checkpoints; only what decodes is built.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.families.weights import size_of
from textual_vision.runtime.errors import IntegrityError

NORM_EPS = 1e-6
SHUFFLE = 2  # pixels per position and axis in the last layer
COLORS = 3
MODULATIONS = 6


class ModulatedBlock(nn.Module):
    """A depthwise convolution and two linear layers, each normalized, modulated and added to its input."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(
            nn.ReplicationPad2d(1), nn.Conv2d(channels, channels, 3, groups=channels)
        )
        self.channelwise = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.gammas = nn.Parameter(torch.zeros(MODULATIONS))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        scale1, shift1, gain1, scale2, shift2, gain2 = self.gammas.unbind()
        rows = normalized(x.permute(0, 2, 3, 1)) * (1 + scale1) + shift1
        x = x + self.depthwise(rows.permute(0, 3, 1, 2)) * gain1
        rows = normalized(x.permute(0, 2, 3, 1)) * (1 + scale2) + shift2
        out: Tensor = x + self.channelwise(rows).permute(0, 3, 1, 2) * gain2
        return out


def normalized(rows: Tensor) -> Tensor:
    """Each vector along the last axis with mean 0 and variance 1."""
    return F.layer_norm(rows, rows.shape[-1:], eps=NORM_EPS)


class Codebook(nn.Module):
    """The codebook under its key."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.codebook = nn.Embedding(size, width)


class PaellaDecoder(nn.Module):
    """Picture float32 (batch, 3, H, W), about in [0, 1], from codes int64 (batch, h, w).

    `widths` are the channels from the codes' level to the picture's; the first has `blocks` blocks.
    """

    def __init__(self, *, codebook_size: int, latent: int, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        self.vquantizer = Codebook(codebook_size, latent)
        layers: list[nn.Module] = [nn.Sequential(nn.Conv2d(latent, widths[0], 1))]
        for level, width in enumerate(widths):
            layers += [ModulatedBlock(width, 4 * width) for _ in range(blocks if level == 0 else 1)]
            if level < len(widths) - 1:
                layers.append(nn.ConvTranspose2d(width, widths[level + 1], 4, 2, 1))
        self.up_blocks = nn.Sequential(*layers)
        self.out_block = nn.Sequential(
            nn.Conv2d(widths[-1], COLORS * SHUFFLE**2, 1), nn.PixelShuffle(SHUFFLE)
        )
        self.pixels_per_code = SHUFFLE * 2 ** (len(widths) - 1)

    def forward(self, codes: Tensor) -> Tensor:
        """The picture."""
        rows = self.vquantizer.codebook(codes).permute(0, 3, 1, 2)
        picture: Tensor = self.out_block(self.up_blocks(rows))
        return picture


def decoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that decoding needs."""
    parts = ("vquantizer.", "up_blocks.", "out_block.")
    return {key: value for key, value in state.items() if key.startswith(parts)}


def decoder_from_state(state: Mapping[str, Tensor]) -> PaellaDecoder:
    """The decoder whose sizes are those of the state's tensors, without its weights."""
    ups = [key for key in state if key.startswith("up_blocks.") and key.count(".") == 2]
    ups = sorted((key for key in ups if key.endswith(".weight")), key=lambda key: int(key.split(".")[1]))
    first = size_of(state, "up_blocks.0.0.weight", 0)
    blocks = {int(key.split(".")[1]) for key in state if key.endswith(".gammas") and "up_blocks" in key}
    if not blocks:
        raise IntegrityError("the state dict has no block of Paella's decoder", "give vqgan.pt second")
    return PaellaDecoder(
        codebook_size=size_of(state, "vquantizer.codebook.weight", 0),
        latent=size_of(state, "vquantizer.codebook.weight", 1),
        widths=(first, *(size_of(state, key, 1) for key in ups)),
        blocks=len(blocks) - len(ups),
    )
