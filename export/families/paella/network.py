"""Paella's token network: logits of all codes at once, from codes of which some are random.

Rampas, Pernias, Aubreville, "A novel sampling scheme for text- and image-conditional image synthesis in
quantized latent spaces", 2022. Keys are those of its checkpoints: `in_mapper`, `down_blocks.N.M`,
`up_blocks.N.M`, `clf`, `out_mapper` and the mappers of conditions.

The original attends to padding too when prompts of a batch differ in length. Here padding is masked, so that
every row equals the original run on that prompt alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.families.attention import MultiheadAttention, bias_from_mask
from textual_vision.export.families.weights import size_of
from textual_vision.runtime.errors import IntegrityError

NORM_EPS = 1e-6
EXPANSION = 4
TIME_RANGE = 10_000  # a time of 1 is this position of the sinusoids
CONVOLUTION, TIME, ATTENTION, FEED_FORWARD = "C", "T", "A", "F"


@dataclass(frozen=True, kw_only=True)
class PaellaConfig:
    """Sizes of the network: `widths` and `blocks` by level, the kinds of blocks in their order."""

    codes: int
    code_width: int
    output_width: int
    patch: int
    condition: int
    text: int
    clip: int
    clip_tokens: int
    time: int
    kernel: int
    widths: tuple[int, ...]
    heads: tuple[int, ...]
    down: tuple[str, ...]  # of each level, one letter a block
    up: tuple[str, ...]


class ChannelNorm(nn.Module):
    """Each position's channels with mean 0 and variance 1, for features (batch, channels, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        rows = x.permute(0, 2, 3, 1)
        return F.layer_norm(rows, rows.shape[-1:], eps=NORM_EPS).permute(0, 3, 1, 2)


class GlobalResponseNorm(nn.Module):
    """Channels scaled by the length that each has over the whole picture, relative to the others' mean.

    Woo et al., "ConvNeXt V2: co-designing and scaling ConvNets with masked autoencoders", CVPR 2023.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, rows: Tensor) -> Tensor:
        """Features (batch, H, W, width)."""
        length = rows.square().sum((1, 2), keepdim=True).sqrt()
        relative = length / (length.mean(-1, keepdim=True) + NORM_EPS)
        return self.gamma * (rows * relative) + self.beta + rows


def channel_layers(width: int) -> nn.Sequential:
    """Two linear layers over the channels with a response normalization between them."""
    hidden = EXPANSION * width
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.GELU(),
        GlobalResponseNorm(hidden),
        nn.Dropout(0.0),
        nn.Linear(hidden, width),
    )


class ConvolutionBlock(nn.Module):
    """A depthwise convolution, which also reads skipped features, then channel layers."""

    def __init__(self, width: int, skip: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width + skip, width, kernel, padding=kernel // 2, groups=width)
        self.norm = ChannelNorm()
        self.channelwise = channel_layers(width)

    def forward(self, x: Tensor, skipped: Tensor | None = None) -> Tensor:
        """Features of the same shape."""
        source = x if skipped is None else torch.cat((x, skipped), dim=1)
        rows = self.norm(self.depthwise(source)).permute(0, 2, 3, 1)
        out: Tensor = x + self.channelwise(rows).permute(0, 3, 1, 2)
        return out


class FeedForwardBlock(nn.Module):
    """Normalized channel layers, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ChannelNorm()
        self.channelwise = channel_layers(width)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        rows = self.norm(x).permute(0, 2, 3, 1)
        out: Tensor = x + self.channelwise(rows).permute(0, 3, 1, 2)
        return out


class TimeBlock(nn.Module):
    """Scale and shift of each channel from the time."""

    def __init__(self, width: int, time: int) -> None:
        super().__init__()
        self.mapper = nn.Linear(time, 2 * width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Features of the same shape."""
        scale, shift = self.mapper(time)[:, :, None, None].chunk(2, dim=1)
        out: Tensor = x * (1 + scale) + shift
        return out


class PositionAttention(nn.Module):
    """Every position attends to all positions and to the condition."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = MultiheadAttention(width, heads)

    def forward(self, x: Tensor, condition: Tensor, bias: Tensor) -> Tensor:
        """Features (batch, width, H, W)."""
        rows = x.flatten(2).transpose(1, 2)  # (batch, positions, width)
        bias = F.pad(bias, (rows.shape[1], 0))
        mixed = self.attn(rows, torch.cat((rows, condition), dim=1), bias)
        out: Tensor = mixed.transpose(1, 2).unflatten(2, x.shape[2:])
        return out


class AttentionBlock(nn.Module):
    """Normalized attention, added to its input."""

    def __init__(self, width: int, condition: int, heads: int) -> None:
        super().__init__()
        self.norm = ChannelNorm()
        self.attention = PositionAttention(width, heads)
        self.kv_mapper = nn.Sequential(nn.SiLU(), nn.Linear(condition, width))

    def forward(self, x: Tensor, condition: Tensor, bias: Tensor) -> Tensor:
        """Features of the same shape."""
        out: Tensor = x + self.attention(self.norm(x), self.kv_mapper(condition), bias)
        return out


class PaellaNetwork(nn.Module):
    """Logits float32 (batch, codes, h, w) from codes int64 (batch, h, w), time and condition."""

    def __init__(self, config: PaellaConfig) -> None:
        super().__init__()
        self.config = config
        widths, last = config.widths, len(config.widths) - 1
        self.byt5_mapper = nn.Linear(config.text, config.condition)
        self.clip_mapper = nn.Linear(config.clip, config.condition * config.clip_tokens)
        self.clip_image_mapper = nn.Linear(config.clip, config.condition * config.clip_tokens)
        self.in_mapper = nn.Sequential(nn.Embedding(config.codes, config.code_width))
        patched = config.code_width * config.patch**2
        self.embedding = nn.Sequential(
            nn.PixelUnshuffle(config.patch), nn.Conv2d(patched, widths[0], 1), ChannelNorm()
        )
        self.down_blocks = nn.ModuleList(
            nn.ModuleList((*self._sampler(level, nn.Conv2d), *self._blocks(level, config.down[level], 0)))
            for level in range(last + 1)
        )
        self.up_blocks = nn.ModuleList(
            nn.ModuleList((*self._blocks(level, kinds, skip), *self._sampler(level, nn.ConvTranspose2d)))
            for level, kinds, skip in zip(
                reversed(range(last + 1)), config.up, (0, *widths[-2::-1]), strict=True
            )
        )
        output = config.output_width
        self.clf = nn.Sequential(
            ChannelNorm(), nn.Conv2d(widths[0], output * config.patch**2, 1), nn.PixelShuffle(config.patch)
        )
        self.out_mapper = nn.Sequential(ChannelNorm(), nn.Conv2d(output, config.codes, 1, bias=False))

    def _sampler(self, level: int, kind: type[nn.Conv2d] | type[nn.ConvTranspose2d]) -> list[nn.Module]:
        """The normalized convolution between a level and the one above it, which is half as small."""
        if not level:
            return []
        sizes = self.config.widths[level - 1], self.config.widths[level]
        before, after = sizes if kind is nn.Conv2d else sizes[::-1]
        return [nn.Sequential(ChannelNorm(), kind(before, after, 2, 2))]

    def _blocks(self, level: int, kinds: str, skip: int) -> list[nn.Module]:
        config, width = self.config, self.config.widths[level]
        found: list[nn.Module] = []
        for index, kind in enumerate(kinds):
            if kind == CONVOLUTION:
                found.append(ConvolutionBlock(width, 0 if index else skip, config.kernel))
            elif kind == ATTENTION:
                found.append(AttentionBlock(width, config.condition, config.heads[level]))
            elif kind == TIME:
                found.append(TimeBlock(width, config.time))
            else:
                found.append(FeedForwardBlock(width))
        return found

    def condition(self, text: Tensor) -> Tensor:
        """The text's features as the blocks attend to them, float32 (batch, tokens, condition)."""
        mapped: Tensor = self.byt5_mapper(text)
        return F.layer_norm(mapped, mapped.shape[-1:], eps=NORM_EPS)

    def time_features(self, time: Tensor) -> Tensor:
        """Sines and cosines of the time, float32 (batch, time); time float32 (batch,) in [0, 1]."""
        half = self.config.time // 2
        rates = torch.exp(torch.arange(half) * -(math.log(TIME_RANGE) / (half - 1)))
        angles = (time * TIME_RANGE)[:, None] * rates[None, :]
        return torch.cat((angles.sin(), angles.cos()), dim=1)

    def forward(self, codes: Tensor, time: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        """The logits; condition float32 (batch, tokens, condition), mask int64 (batch, tokens)."""
        features, bias = self.time_features(time), bias_from_mask(mask)
        rows = self.in_mapper(codes)
        rows = F.layer_norm(rows, rows.shape[-1:], eps=NORM_EPS)
        x = self.embedding(rows.permute(0, 3, 1, 2))
        skipped: list[Tensor] = []
        for blocks in self.down_blocks:
            for block in blocks.children():
                x = _apply(block, x, features, condition, bias, None)
            skipped.append(x)
        for level, blocks in enumerate(self.up_blocks):
            for index, block in enumerate(blocks.children()):
                skip = skipped[-1 - level] if level and index == 0 else None
                x = _apply(block, x, features, condition, bias, skip)
        logits: Tensor = self.out_mapper(self.clf(x))
        return logits


def _apply(
    block: nn.Module, x: Tensor, time: Tensor, condition: Tensor, bias: Tensor, skipped: Tensor | None
) -> Tensor:
    inputs: tuple[Tensor | None, ...] = (x,)
    if isinstance(block, TimeBlock):
        inputs = (x, time)
    elif isinstance(block, AttentionBlock):
        inputs = (x, condition, bias)
    elif isinstance(block, ConvolutionBlock):
        inputs = (x, skipped)
    out: Tensor = block(*inputs)
    return out


def config_from_state(state: Mapping[str, Tensor], heads: Sequence[int]) -> PaellaConfig:
    """The sizes, read off the shapes; `heads` of each level, which the weights do not determine."""
    down, up = (_kinds(state, f"{side}_blocks.") for side in ("down", "up"))
    widths = [size_of(state, "embedding.1.weight", 0)]
    widths += [size_of(state, f"down_blocks.{level}.0.1.weight", 0) for level in range(1, len(down))]
    code_width = size_of(state, "in_mapper.0.weight", 1)
    condition = size_of(state, "byt5_mapper.weight", 0)
    output_width = size_of(state, "out_mapper.1.weight", 1)
    return PaellaConfig(
        codes=size_of(state, "in_mapper.0.weight", 0),
        code_width=code_width,
        output_width=output_width,
        patch=math.isqrt(size_of(state, "embedding.1.weight", 1) // code_width),
        condition=condition,
        text=size_of(state, "byt5_mapper.weight", 1),
        clip=size_of(state, "clip_mapper.weight", 1),
        clip_tokens=size_of(state, "clip_mapper.weight", 0) // condition,
        time=_first_size(state, ".mapper.weight", 1),
        kernel=_first_size(state, ".depthwise.weight", 2),
        widths=tuple(widths),
        heads=tuple(heads),
        down=down,
        up=up,
    )


def _first_size(state: Mapping[str, Tensor], ending: str, axis: int) -> int:
    return size_of(state, next((key for key in state if key.endswith(ending)), ending[1:]), axis)


def _kinds(state: Mapping[str, Tensor], prefix: str) -> tuple[str, ...]:
    """Of each level the letters of its blocks in order; samplers are left out."""
    found: dict[int, dict[int, str]] = {}
    for key in (key for key in state if key.startswith(prefix)):
        level, block, name = (*key.removeprefix(prefix).split("."), "", "")[:3]
        kind = _kind_from_part(name)
        blocks = found.setdefault(int(level), {})
        if kind is not None and blocks.get(int(block)) != CONVOLUTION:
            blocks[int(block)] = kind
    if sorted(found) != list(range(len(found))) or not found:
        raise IntegrityError(
            f"the state dict lacks levels of {prefix}", "check that --family names its system"
        )
    return tuple(
        "".join(found[level][block] for block in sorted(found[level])) for level in range(len(found))
    )


def _kind_from_part(name: str) -> str | None:
    kinds = {"depthwise": CONVOLUTION, "channelwise": FEED_FORWARD, "mapper": TIME}
    kinds |= {"attention": ATTENTION, "kv_mapper": ATTENTION}
    return kinds.get(name)
