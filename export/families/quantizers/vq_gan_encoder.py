"""VQ-GAN's other direction: the codes of a picture.

Esser, Rombach, Ommer, "Taming transformers for high-resolution image synthesis", CVPR 2021. Keys are those of
its checkpoints: `encoder`, `quant_conv`, and `quantize.embedding`, or `quantize.proj` of the Gumbel variant.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.families.quantizers.vq_vae import nearest_rows, row_margins
from textual_vision.export.families.vq_gan import (
    AttentionBlock,
    MiddleLevel,
    ResnetBlock,
    normalization,
)
from textual_vision.export.families.weights import size_of

GUMBEL = "quantize.proj.weight"
TINY = 1e-12


class Downsample(nn.Module):
    """Halves the resolution by a convolution, padded below and to the right alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, channels, H / 2, W / 2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class DownLevel(nn.Module):
    """Residual blocks of one resolution, each with attention if there is any, then a downsampling."""

    def __init__(self, before: int, after: int, blocks: int, attention: bool, downsample: bool) -> None:
        super().__init__()
        sizes = [(before if index == 0 else after, after) for index in range(blocks)]
        self.block = nn.ModuleList(ResnetBlock(*pair) for pair in sizes)
        self.attn = nn.ModuleList(AttentionBlock(after) for _ in range(blocks * attention))
        self.downsample = Downsample(after) if downsample else None

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, after, H, W), half as large after a downsampling."""
        for index, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[index](x)
        return x if self.downsample is None else self.downsample(x)


class Encoder(nn.Module):
    """Latents (batch, latent, h, w) of a picture (batch, colors, H, W) in [-1, 1]."""

    def __init__(
        self, *, colors: int, widths: tuple[int, ...], blocks: int, attention: tuple[bool, ...], latent: int
    ) -> None:
        super().__init__()
        first, last = widths[0], widths[-1]
        self.conv_in = nn.Conv2d(colors, first, 3, padding=1)
        befores = (first, *widths[:-1])
        self.down = nn.ModuleList(
            DownLevel(before, after, blocks, attended, level < len(widths) - 1)
            for level, (before, after, attended) in enumerate(zip(befores, widths, attention, strict=True))
        )
        self.mid = MiddleLevel(last)
        self.norm_out = normalization(last)
        self.conv_out = nn.Conv2d(last, latent, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        """The latents."""
        x = self.conv_in(picture)
        for level in self.down:
            x = level(x)
        latents: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return latents


class NearestRow(nn.Module):
    """Codes by the nearest row of the codebook."""

    def __init__(self, codebook_size: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, embed_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Codes int64 (batch, h, w)."""
        return nearest_rows(features, self.embedding.weight)

    def margins(self, features: Tensor) -> Tensor:
        """By how much the nearest row is nearer than the next, see `row_margins`."""
        return row_margins(features, self.embedding.weight)


class LikeliestCode(nn.Module):
    """Codes by the largest logit, as the Gumbel variant has it."""

    def __init__(self, features: int, codebook_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(features, codebook_size, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Codes int64 (batch, h, w)."""
        codes: Tensor = self.proj(features).argmax(1)
        return codes

    def margins(self, features: Tensor) -> Tensor:
        """The gap between the two largest logits of each position, as a share of the logits' deviation."""
        logits = self.proj(features)
        best = logits.topk(2, dim=1).values
        gap: Tensor = (best[:, 0] - best[:, 1]) / logits.std(1).clamp_min(TINY)
        return gap


class VqGanEncoder(nn.Module):
    """Codes int64 (batch, h, w) of a picture float32 (batch, colors, H, W) in [-1, 1]."""

    def __init__(
        self, encoder: Encoder, quantizer: NearestRow | LikeliestCode, latent: int, features: int
    ) -> None:
        super().__init__()
        self.encoder, self.quantize = encoder, quantizer
        self.quant_conv = nn.Conv2d(latent, features, 1)

    def forward(self, picture: Tensor) -> Tensor:
        """The codes."""
        codes: Tensor = self.quantize(self.quant_conv(self.encoder(picture)))
        return codes

    def margins(self, picture: Tensor) -> Tensor:
        """By how much each code won, float32 (batch, h, w)."""
        return self.quantize.margins(self.quant_conv(self.encoder(picture)))


def encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that encoding needs."""
    codebook = "quantize.proj." if GUMBEL in state else "quantize.embedding."
    return {key: one for key, one in state.items() if key.startswith(("encoder.", "quant_conv.", codebook))}


def vq_gan_encoder_from_state(state: Mapping[str, Tensor]) -> VqGanEncoder:
    """The encoder whose sizes are those of the state's tensors, without its weights."""
    down = "encoder.down."
    levels = 1 + max((int(key.split(".")[2]) for key in state if key.startswith(down)), default=-1)
    first = [key for key in state if key.startswith(f"{down}0.block.") and key.endswith("conv1.weight")]
    latent, features = size_of(state, "encoder.conv_out.weight", 0), size_of(state, "quant_conv.weight", 0)
    encoder = Encoder(
        colors=size_of(state, "encoder.conv_in.weight", 1),
        widths=tuple(size_of(state, f"{down}{level}.block.0.conv1.weight", 0) for level in range(levels)),
        blocks=len(first),
        attention=tuple(f"{down}{level}.attn.0.q.weight" in state for level in range(levels)),
        latent=latent,
    )
    quantizer: NearestRow | LikeliestCode
    if GUMBEL in state:
        quantizer = LikeliestCode(features, size_of(state, GUMBEL, 0))
    else:
        quantizer = NearestRow(size_of(state, "quantize.embedding.weight", 0), features)
    return VqGanEncoder(encoder, quantizer, latent, features)
