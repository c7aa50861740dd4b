"""StyleGAN's generator, whose latent is noise joined with a sentence.

Karras, Laine, Aila, "A style-based generator architecture for generative adversarial networks", CVPR 2019;
Stap et al., "Conditional image generation and manipulation for user-specified content", 2020, whose code is
not published. Keys are those of a common PyTorch implementation of StyleGAN. Its equalized weights
(`weight_orig`) are scaled when they are loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.families.weights import State, size_of
from textual_vision.runtime.errors import IntegrityError

SLOPE = 0.2
NORM_EPS = 1e-8
START = 4  # height and width of the constant that the generator begins with
EQUALIZED = "weight_orig"
CONSTANT, REPEATED, FUSED = "constant", "repeated", "fused"


@dataclass(frozen=True, kw_only=True)
class StyleConfig:
    """Sizes of the generator: `widths` of each resolution, and how each one begins."""

    latent: int
    style: int
    mapping: int
    widths: tuple[int, ...]
    kinds: tuple[str, ...]
    colors: int


class UnitLength(nn.Module):
    """Each vector divided by its root mean square."""

    def forward(self, x: Tensor) -> Tensor:
        """Vectors of the same shape."""
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + NORM_EPS)


class Held(nn.Module):
    """A layer one level deeper, as the implementation's keys have it."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        out: Tensor = getattr(self, self.name)(x)
        return out


class Blur(nn.Module):
    """A fixed depthwise filter."""

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        return F.conv2d(x, self.weight, padding=1, groups=x.shape[1])


class ConstantInput(nn.Module):
    """The learned first feature map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.zeros(1, channels, START, START))


class NoiseWeight(nn.Module):
    """Noise (batch, 1, H, W), added to each channel with a weight of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Features of the same shape."""
        out: Tensor = x + self.weight * noise
        return out


class AdaptiveNorm(nn.Module):
    """Each channel normalized over positions, then scaled and shifted by the style."""

    def __init__(self, channels: int, style: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels)
        self.style = Held("linear", nn.Linear(style, 2 * channels))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Features of the same shape."""
        scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
        out: Tensor = scale * self.norm(x) + shift
        return out


class StyleBlock(nn.Module):
    """One resolution: twice a convolution, noise, and a normalization by the style."""

    def __init__(self, before: int, after: int, style: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv1: nn.Module
        if kind == CONSTANT:
            self.conv1 = ConstantInput(after)
        elif kind == FUSED:
            self.conv1 = nn.Sequential(nn.ConvTranspose2d(before, after, 4, 2, 1), Blur(after))
        else:
            convolution = Held("conv", nn.Conv2d(before, after, 3, padding=1))
            self.conv1 = nn.Sequential(nn.Upsample(scale_factor=2), convolution, Blur(after))
        self.noise1, self.adain1 = NoiseWeight(after), AdaptiveNorm(after, style)
        self.conv2 = Held("conv", nn.Conv2d(after, after, 3, padding=1))
        self.noise2, self.adain2 = NoiseWeight(after), AdaptiveNorm(after, style)

    def forward(self, x: Tensor | None, style: Tensor, noise: Tensor) -> Tensor:
        """Features (batch, after, H, W), twice as large as `x`."""
        if isinstance(self.conv1, ConstantInput):
            x = self.conv1.input.expand(noise.shape[0], -1, -1, -1)
        else:
            x = self.conv1(x)
        x = self.adain1(F.leaky_relu(self.noise1(x, noise), SLOPE), style)
        x = self.noise2(self.conv2(x), noise)
        out: Tensor = self.adain2(F.leaky_relu(x, SLOPE), style)
        return out


class Synthesis(nn.Module):
    """The resolutions one after the other, and the layers that make pixels of each."""

    def __init__(self, config: StyleConfig) -> None:
        super().__init__()
        befores = (config.widths[0], *config.widths[:-1])
        self.progression = nn.ModuleList(
            StyleBlock(before, after, config.style, kind)
            for before, after, kind in zip(befores, config.widths, config.kinds, strict=True)
        )
        self.to_rgb = nn.ModuleList(
            Held("conv", nn.Conv2d(width, config.colors, 1)) for width in config.widths
        )


class StyleGenerator(nn.Module):
    """Picture float32 (batch, colors, H, W), about in [-1, 1], from sentence, noise, and noise of each size.

    `levels` resolutions are used, from 4 pixels on, each twice the one before.
    """

    def __init__(self, config: StyleConfig, levels: int) -> None:
        super().__init__()
        self.config, self.levels = config, levels
        self.generator = Synthesis(config)
        layers: list[nn.Module] = [UnitLength()]
        for number in range(config.mapping):
            inputs = config.style if number else config.latent
            layers += [Held("linear", nn.Linear(inputs, config.style)), nn.LeakyReLU(SLOPE)]
        self.style = nn.Sequential(*layers)

    def forward(self, sentence: Tensor, noise: Tensor, *level_noise: Tensor) -> Tensor:
        """The picture; `level_noise` are (batch, 1, 4, 4), (batch, 1, 8, 8), ..."""
        style = self.style(torch.cat((noise, sentence), dim=1))
        x: Tensor | None = None
        for level in range(self.levels):
            x = self.generator.progression[level](x, style, level_noise[level])
        picture: Tensor = self.generator.to_rgb[self.levels - 1](x)
        return picture

    @property
    def sizes(self) -> tuple[int, ...]:
        """Height and width of each resolution that is used."""
        return tuple(START << level for level in range(self.levels))


def scaled_state(state: Mapping[str, Tensor]) -> State:
    """The state with equalized weights multiplied by √(2 / fan-in), under the name `weight`.

    The weight of a fused upsampling becomes that of a transposed convolution of 4 × 4: the mean of its four
    shifts by one pixel.
    """
    found: State = {}
    for key, value in state.items():
        if key.endswith("weight_flip"):
            continue
        gain = math.sqrt(2 / max(1, value[0].numel())) if value.dim() > 1 else 1.0
        if key.endswith(EQUALIZED):
            found[key.removesuffix("_orig")] = value * gain
        elif key.endswith("conv1.0.weight"):
            found[key] = _shifted_mean(value * math.sqrt(2 / (value.shape[0] * value[0, 0].numel())))
        else:
            found[key] = value
    return found


def _shifted_mean(weight: Tensor) -> Tensor:
    padded = F.pad(weight, (1, 1, 1, 1))
    shifts = (padded[:, :, 1:, 1:], padded[:, :, :-1, 1:], padded[:, :, 1:, :-1], padded[:, :, :-1, :-1])
    return torch.stack(shifts).mean(0)


def generator_from_state(state: Mapping[str, Tensor], levels: int | None = None) -> StyleGenerator:
    """The generator whose sizes are those of the scaled state's tensors, without its weights."""
    start = "generator.progression."
    count = 1 + max((int(key.split(".")[2]) for key in state if key.startswith(start)), default=-1)
    used = count if levels is None else levels
    if not 1 <= used <= count:
        problem = f"{used} of {count} resolutions"
        raise IntegrityError(problem, "give StyleGAN's generator, and a size that it has")
    config = StyleConfig(
        latent=size_of(state, "style.1.linear.weight", 1),
        style=size_of(state, "style.1.linear.weight", 0),
        mapping=sum(key.startswith("style.") and key.endswith(".weight") for key in state),
        widths=tuple(size_of(state, f"{start}{level}.conv2.conv.weight", 0) for level in range(count)),
        kinds=tuple(_kind(state, f"{start}{level}.conv1.") for level in range(count)),
        colors=size_of(state, "generator.to_rgb.0.conv.weight", 0),
    )
    return StyleGenerator(config, used)


def _kind(state: Mapping[str, Tensor], prefix: str) -> str:
    if f"{prefix}input" in state:
        return CONSTANT
    return FUSED if f"{prefix}0.weight" in state else REPEATED
