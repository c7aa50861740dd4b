"""VQ-GAN: a picture from the rows of a codebook, by residual blocks and attention over positions.

Esser, Rombach, Ommer, "Taming transformers for high-resolution image synthesis", CVPR 2021. Keys are those of
its checkpoints; only what decodes is built: `decoder`, `quantize`, `post_quant_conv`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.families.weights import size_of

GROUPS = 32
NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes of a decoder: `widths` from the picture's level to the codes' level, `attention` per level."""

    latent: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    colors: int


def normalization(channels: int) -> nn.GroupNorm:
    """Group normalization as every block of the family has it."""
    return nn.GroupNorm(GROUPS, channels, NORM_EPS)


class ResnetBlock(nn.Module):
    """Two normalized convolutions, added to their input."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = normalization(before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = normalization(after), nn.Conv2d(after, after, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(before, after, 1) if before != after else None

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, after, H, W)."""
        residual = self.conv1(F.silu(self.norm1(x)))
        residual = self.conv2(F.silu(self.norm2(residual)))
        out: Tensor = residual + (x if self.nin_shortcut is None else self.nin_shortcut(x))
        return out


class AttentionBlock(nn.Module):
    """Attention of one head over all positions, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = normalization(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        normalized = self.norm(x)
        query, key, value = (part(normalized).flatten(2) for part in (self.q, self.k, self.v))
        scores = query.transpose(1, 2) @ key * x.shape[1] ** -0.5  # (batch, positions, positions)
        mixed = value @ scores.softmax(2).transpose(1, 2)
        out: Tensor = x + self.proj_out(mixed.unflatten(2, x.shape[2:]))
        return out


class Upsample(nn.Module):
    """Doubles the resolution by repetition, then convolves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, channels, 2 H, 2 W)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0))
        return out


class MiddleLevel(nn.Module):
    """Two residual blocks with attention between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.attn_1 = ResnetBlock(width, width), AttentionBlock(width)
        self.block_2 = ResnetBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class UpLevel(nn.Module):
    """Residual blocks of one resolution, each with attention if there is any, then an upsampling."""

    def __init__(self, before: int, after: int, blocks: int, attention: bool, upsample: bool) -> None:
        super().__init__()
        sizes = [(before if index == 0 else after, after) for index in range(blocks)]
        self.block = nn.ModuleList(ResnetBlock(*pair) for pair in sizes)
        self.attn = nn.ModuleList(AttentionBlock(after) for _ in range(blocks * attention))
        self.upsample = Upsample(after) if upsample else None

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, after, H, W), twice as large after an upsampling."""
        for index, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[index](x)
        return x if self.upsample is None else self.upsample(x)


class Quantizer(nn.Module):
    """The codebook."""

    def __init__(self, codebook_size: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, embed_dim)

    def forward(self, codes: Tensor) -> Tensor:
        """Rows (batch, h, w, embed_dim)."""
        rows: Tensor = self.embedding(codes)
        return rows


class Decoder(nn.Module):
    """From latents (batch, latent, h, w) to a picture (batch, colors, H, W), about in [-1, 1]."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        levels, width = len(config.widths), config.widths[-1]
        self.conv_in = nn.Conv2d(config.latent, width, 3, padding=1)
        self.mid = MiddleLevel(width)
        befores = (*config.widths[1:], width)
        self.up = nn.ModuleList(
            UpLevel(befores[level], config.widths[level], config.blocks, config.attention[level], level > 0)
            for level in range(levels)
        )
        width = config.widths[0]
        self.norm_out = normalization(width)
        self.conv_out = nn.Conv2d(width, config.colors, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """The picture."""
        x = self.mid(self.conv_in(latents))
        for level in reversed(range(len(self.up))):
            x = self.up[level](x)
        picture: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return picture


class VqGanDecoder(nn.Module):
    """Picture (batch, colors, H, W), about in [-1, 1], from codes int64 (batch, h, w)."""

    def __init__(self, config: DecoderConfig, *, codebook_size: int, embed_dim: int) -> None:
        super().__init__()
        self.quantize = Quantizer(codebook_size, embed_dim)
        self.post_quant_conv = nn.Conv2d(embed_dim, config.latent, 1)
        self.decoder = Decoder(config)

    def forward(self, codes: Tensor) -> Tensor:
        """The picture."""
        rows = self.quantize(codes).permute(0, 3, 1, 2)
        picture: Tensor = self.decoder(self.post_quant_conv(rows))
        return picture


def decoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that decoding needs, under this module's keys; Gumbel's codebook is named `embed`."""
    gumbel = "quantize.embed.weight"
    parts = ("decoder.", "quantize.embedding.", "post_quant_conv.")
    needed = {key: value for key, value in state.items() if key.startswith(parts)}
    if gumbel in state:
        needed["quantize.embedding.weight"] = state[gumbel]
    return needed


def config_from_state(state: Mapping[str, Tensor]) -> DecoderConfig:
    """The decoder's sizes, read off the shapes of its state dict."""
    levels = 1 + max((int(key.split(".")[2]) for key in state if key.startswith("decoder.up.")), default=-1)
    first = [key for key in state if key.startswith("decoder.up.0.block.") and key.endswith("conv1.weight")]
    attention = tuple(f"decoder.up.{level}.attn.0.q.weight" in state for level in range(levels))
    return DecoderConfig(
        latent=size_of(state, "decoder.conv_in.weight", 1),
        widths=tuple(
            size_of(state, f"decoder.up.{level}.block.0.conv1.weight", 0) for level in range(levels)
        ),
        blocks=len(first),
        attention=attention,
        colors=size_of(state, "decoder.conv_out.weight", 0),
    )


def vq_gan_from_state(state: Mapping[str, Tensor]) -> VqGanDecoder:
    """The decoder whose sizes are those of the state's tensors, without its weights."""
    return VqGanDecoder(
        config_from_state(state),
        codebook_size=size_of(state, "quantize.embedding.weight", 0),
        embed_dim=size_of(state, "quantize.embedding.weight", 1),
    )
