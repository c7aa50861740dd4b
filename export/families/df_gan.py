"""DF-GAN: a picture from a sentence in one generator, whose blocks are modulated by noise and sentence.

Tao et al., "DF-GAN: a simple and effective baseline for text-to-image synthesis", CVPR 2022. Keys are those
of its checkpoints: `fc`, `GBlocks.N.{c1,c2,c_sc,fuse1,fuse2}`, `to_rgb.1`.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.families.damsm import Sentence, text_from_files
from textual_vision.export.families.parts import FamilyNetworks, stage, tensor
from textual_vision.export.families.weights import load_state, read_checkpoint, size_of, state_from_checkpoint
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.specs import NoiseSpec

START = 4  # height and width of the first feature map
SLOPE = 0.2
MAX_WORDS = 18  # of a prompt, as the original cuts captions
NOISE_SCALE = 0.88
NOISE_TAIL = 0.022750131948179212  # probability of a normal below two deviations under its mean


class Affine(nn.Module):
    """Scale and shift of each channel, both from the condition by two linear layers."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.fc_gamma = _two_layers(condition, channels)
        self.fc_beta = _two_layers(condition, channels)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Modulated features (batch, channels, H, W)."""
        scale, shift = self.fc_gamma(condition), self.fc_beta(condition)
        out: Tensor = scale[:, :, None, None] * features + shift[:, :, None, None]
        return out


def _two_layers(condition: int, channels: int) -> nn.Sequential:
    hidden = channels
    layers = OrderedDict(
        linear1=nn.Linear(condition, hidden), relu1=nn.ReLU(), linear2=nn.Linear(hidden, channels)
    )
    return nn.Sequential(layers)


class DeepFusionBlock(nn.Module):
    """Two affine modulations, each followed by a leaky ReLU."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.affine0 = Affine(channels, condition)
        self.affine1 = Affine(channels, condition)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Features of the same shape."""
        features = F.leaky_relu(self.affine0(features, condition), SLOPE)
        return F.leaky_relu(self.affine1(features, condition), SLOPE)


class GeneratorBlock(nn.Module):
    """Doubles the resolution, then adds a residual of two modulated convolutions."""

    def __init__(self, before: int, after: int, condition: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(before, after, 3, padding=1)
        self.c2 = nn.Conv2d(after, after, 3, padding=1)
        self.fuse1 = DeepFusionBlock(before, condition)
        self.fuse2 = DeepFusionBlock(after, condition)
        self.c_sc = nn.Conv2d(before, after, 1) if before != after else None

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Features (batch, after, 2 H, 2 W)."""
        features = F.interpolate(features, scale_factor=2)
        residual = self.c1(self.fuse1(features, condition))
        residual = self.c2(self.fuse2(residual, condition))
        out: Tensor = residual + (features if self.c_sc is None else self.c_sc(features))
        return out


class DfGanGenerator(nn.Module):
    """Picture (batch, 3, H, W) in [-1, 1] from noise (batch, Z) and sentence (batch, C)."""

    def __init__(self, *, noise_dim: int, sentence_dim: int, widths: tuple[int, ...], colors: int) -> None:
        super().__init__()
        condition = noise_dim + sentence_dim
        self.noise_dim, self.sentence_dim, self.first, self.colors = (
            noise_dim,
            sentence_dim,
            widths[0],
            colors,
        )
        self.fc = nn.Linear(noise_dim, widths[0] * START * START)
        pairs = itertools.pairwise(widths)
        self.GBlocks = nn.ModuleList(GeneratorBlock(*pair, condition) for pair in pairs)
        self.to_rgb = nn.Sequential(
            nn.LeakyReLU(SLOPE), nn.Conv2d(widths[-1], colors, 3, padding=1), nn.Tanh()
        )

    def forward(self, noise: Tensor, sentence: Tensor) -> Tensor:
        """The picture."""
        features = self.fc(noise).unflatten(1, (self.first, START, START))
        condition = torch.cat((noise, sentence), dim=1)
        for block in self.GBlocks:
            features = block(features, condition)
        picture: Tensor = self.to_rgb(features)
        return picture

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return int(START * 2 ** len(self.GBlocks))


def generator_from_state(state: Mapping[str, Tensor]) -> DfGanGenerator:
    """The generator whose sizes are those of the state's tensors, without its weights."""
    blocks = 1 + max((int(key.split(".")[1]) for key in state if key.startswith("GBlocks.")), default=-1)
    widths = [size_of(state, "fc.weight", 0) // START**2]
    widths += [size_of(state, f"GBlocks.{index}.c1.weight", 0) for index in range(blocks)]
    noise_dim = size_of(state, "fc.weight", 1)
    condition = size_of(state, "GBlocks.0.fuse1.affine0.fc_gamma.linear1.weight", 1)
    return DfGanGenerator(
        noise_dim=noise_dim,
        sentence_dim=condition - noise_dim,
        widths=tuple(widths),
        colors=size_of(state, "to_rgb.1.weight", 0),
    )


def load_df_gan(generator: Path, text_encoder: Path, vocabulary: Path) -> FamilyNetworks:
    """Both stages of DF-GAN; the text encoder is DAMSM's, the vocabulary its captions.pickle.

    Noise is normal within two deviations and scaled, as its code samples it.
    """
    state = state_from_checkpoint(read_checkpoint(generator), inside=("model", "netG"))
    network = generator_from_state(state)
    load_state(network, state, generator.name)
    side = text_from_files(text_encoder, vocabulary, max_words=MAX_WORDS)
    if (width := network.sentence_dim) != side.width:
        problem = f"{generator.name} takes sentences of {width}, {text_encoder.name} gives {side.width}"
        raise UsageError(problem, "give the text encoder that it was trained with")
    prompt = (tensor("input_ids", "int64", "tokens"), tensor("attention_mask", "int64", "tokens"))
    sentence = tensor("sentence", "float32", side.width)
    noise = NoiseSpec(shape=(network.noise_dim,), law="truncated_normal", tail=NOISE_TAIL, scale=NOISE_SCALE)
    size = network.image_size
    inputs = (tensor("noise", "float32", network.noise_dim), sentence)
    return FamilyNetworks(
        stages=(
            stage("text_encoder", Sentence(side.encoder), prompt, (sentence,)),
            stage("generator", network, inputs, (tensor("image", "float32", network.colors, size, size),)),
        ),
        image_size=(size, size),
        image_range=(-1.0, 1.0),
        noise=(noise,),
        text=side.text,
        tokenizer=side.tokenizer,
    )
