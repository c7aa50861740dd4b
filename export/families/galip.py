"""GALIP: a picture from CLIP's sentence and noise, with a frozen vision tower of CLIP inside the generator.

Tao, Bao, Tang, Xu, "GALIP: generative adversarial CLIPs for text-to-image synthesis", CVPR 2023. Keys are
those of its checkpoints: `fc_code`, `mapping`, `GBlocks.N`, `to_rgb.1`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.families.clip.blocks import Transformer, transformer_from_state
from textual_vision.export.families.clip.text import ClipText, clip_text_from_file
from textual_vision.export.families.clip.tokenizer import clip_tokenizer
from textual_vision.export.families.df_gan import SLOPE, DeepFusionBlock
from textual_vision.export.families.parts import FamilyNetworks, stage, tensor
from textual_vision.export.families.weights import (
    load_state,
    read_checkpoint,
    size_of,
    state_from_checkpoint,
)
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.specs import NoiseSpec

FIRST_PROMPTED = 1  # number of the first block of the vision tower that sees a prompt
VISION_WEIGHT = 0.1  # of the vision tower's features, added to those that it is given
FUSE_KERNEL = 5
START, LAST_SIZE = 4, 224  # blocks give 8, 16, … pixels; the last one gives CLIP's size
UNUSED = "mapping.CLIP_ViT.conv1.weight"  # the vision tower reads features and not pixels


@dataclass(frozen=True, kw_only=True)
class GalipConfig:
    """Sizes of the generator: `widths` before and after its blocks, `code` the first feature map's."""

    noise: int
    sentence: int
    code: tuple[int, int]  # channels, and height and width
    hidden: int
    fusions: int
    vision: int
    widths: tuple[int, ...]
    colors: int


class FusionBlock(nn.Module):
    """Two convolutions, each modulated by the condition, added to their input."""

    def __init__(self, channels: int, hidden: int, condition: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 3, padding=1)
        self.fuse1 = DeepFusionBlock(hidden, condition)
        self.conv2 = nn.Conv2d(hidden, channels, 3, padding=1)
        self.fuse2 = DeepFusionBlock(channels, condition)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Features of the same shape."""
        residual = self.fuse1(self.conv1(x), condition)
        out: Tensor = x + self.fuse2(self.conv2(residual), condition)
        return out


class VisionTower(nn.Module):
    """The blocks of CLIP's vision tower over a feature map; each of the first blocks sees one prompt more."""

    def __init__(self, width: int, positions: int, transformer: Transformer) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(positions, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = transformer

    def forward(self, features: Tensor, prompts: Tensor) -> Tensor:
        """Features of the same shape; prompts float32 (batch, prompted blocks, width)."""
        rows = features.flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(rows.shape[0], 1, -1)
        x = self.ln_pre(torch.cat((first, rows), dim=1) + self.positional_embedding)
        for number, block in enumerate(self.transformer.resblocks):
            place = number - FIRST_PROMPTED
            if 0 <= place < prompts.shape[1]:
                x = block(torch.cat((x, prompts[:, place : place + 1]), dim=1))[:, :-1]
            else:
                x = block(x)
        out: Tensor = x[:, 1:].transpose(1, 2).unflatten(2, features.shape[2:])
        return out


class Mapper(nn.Module):
    """Features from the noise, fused with the condition, through the vision tower."""

    def __init__(self, config: GalipConfig, tower: VisionTower, prompts: int) -> None:
        super().__init__()
        condition, channels = config.noise + config.sentence, config.code[0]
        self.FBlocks = nn.ModuleList(
            FusionBlock(channels, config.hidden, condition) for _ in range(config.fusions)
        )
        self.conv_fuse = nn.Conv2d(channels, config.vision, FUSE_KERNEL, padding=FUSE_KERNEL // 2)
        self.CLIP_ViT = tower
        self.conv = nn.Conv2d(config.vision, config.widths[0], FUSE_KERNEL, padding=FUSE_KERNEL // 2)
        self.fc_prompt = nn.Linear(condition, config.vision * prompts)
        self.prompts = prompts

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Features (batch, first width, h, w)."""
        prompts = self.fc_prompt(condition).unflatten(1, (self.prompts, -1))
        for block in self.FBlocks:
            x = block(x, condition)
        fused = self.conv_fuse(x)
        out: Tensor = self.conv(fused + VISION_WEIGHT * self.CLIP_ViT(fused, prompts))
        return out


class GeneratorBlock(nn.Module):
    """Resizes to `size` pixels, then adds a residual of two modulated convolutions."""

    def __init__(self, before: int, after: int, condition: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.c1 = nn.Conv2d(before, after, 3, padding=1)
        self.c2 = nn.Conv2d(after, after, 3, padding=1)
        self.fuse1 = DeepFusionBlock(before, condition)
        self.fuse2 = DeepFusionBlock(after, condition)
        self.c_sc = nn.Conv2d(before, after, 1) if before != after else None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Features (batch, after, size, size)."""
        x = F.interpolate(x, size=(self.size, self.size))
        residual = self.c1(self.fuse1(x, condition))
        residual = self.c2(self.fuse2(residual, condition))
        out: Tensor = residual + (x if self.c_sc is None else self.c_sc(x))
        return out


class GalipGenerator(nn.Module):
    """Picture (batch, colors, 224, 224), about in [-1, 1], from noise and sentence."""

    def __init__(self, config: GalipConfig, tower: VisionTower, prompts: int) -> None:
        super().__init__()
        self.config = config
        channels, size = config.code
        condition = config.noise + config.sentence
        self.fc_code = nn.Linear(config.noise, channels * size * size)
        self.mapping = Mapper(config, tower, prompts)
        pairs = list(itertools.pairwise(config.widths))
        sizes = [START << number for number in range(1, len(pairs))] + [LAST_SIZE]
        self.GBlocks = nn.ModuleList(
            GeneratorBlock(*pair, condition, block) for pair, block in zip(pairs, sizes, strict=True)
        )
        self.to_rgb = nn.Sequential(
            nn.LeakyReLU(SLOPE), nn.Conv2d(config.widths[-1], config.colors, 3, padding=1)
        )

    def forward(self, sentence: Tensor, noise: Tensor) -> Tensor:
        """The picture."""
        channels, size = self.config.code
        condition = torch.cat((noise, sentence), dim=1)
        x = self.mapping(self.fc_code(noise).unflatten(1, (channels, size, size)), condition)
        for block in self.GBlocks:
            x = block(x, condition)
        picture: Tensor = self.to_rgb(x)
        return picture


class Sentence(nn.Module):
    """CLIP's sentence float32 (batch, projection) from ids."""

    def __init__(self, tower: ClipText) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, input_ids: Tensor) -> Tensor:
        """The sentence."""
        _, sentence = self.tower(input_ids)
        features: Tensor = sentence
        return features


def generator_from_state(state: Mapping[str, Tensor]) -> GalipGenerator:
    """The generator whose sizes are those of the state's tensors, without its weights."""
    vision = "mapping.CLIP_ViT."
    positions = size_of(state, f"{vision}positional_embedding", 0)
    size = math.isqrt(positions - 1)
    noise = size_of(state, "fc_code.weight", 1)
    width = size_of(state, "mapping.conv_fuse.weight", 0)
    blocks = 1 + max((int(key.split(".")[1]) for key in state if key.startswith("GBlocks.")), default=-1)
    config = GalipConfig(
        noise=noise,
        sentence=size_of(state, "mapping.fc_prompt.weight", 1) - noise,
        code=(size_of(state, "fc_code.weight", 0) // size**2, size),
        hidden=size_of(state, "mapping.FBlocks.0.conv1.weight", 0),
        fusions=len({key.split(".")[2] for key in state if key.startswith("mapping.FBlocks.")}),
        vision=width,
        widths=(
            size_of(state, "mapping.conv.weight", 0),
            *(size_of(state, f"GBlocks.{index}.c1.weight", 0) for index in range(blocks)),
        ),
        colors=size_of(state, "to_rgb.1.weight", 0),
    )
    transformer = transformer_from_state(state, f"{vision}transformer.")
    prompts = size_of(state, "mapping.fc_prompt.weight", 0) // width
    return GalipGenerator(config, VisionTower(width, positions, transformer), prompts)


def load_galip(checkpoint: Path, clip: Path, merges: Path) -> FamilyNetworks:
    """Both stages of GALIP: `checkpoint` holds {model: {netG}}, `clip` the text tower it was trained with."""
    state = state_from_checkpoint(read_checkpoint(checkpoint), inside=("model", "netG"))
    state.pop(UNUSED, None)
    generator = generator_from_state(state)
    load_state(generator, state, checkpoint.name)
    tower = clip_text_from_file(clip)
    config, sentence = generator.config, tower.text_projection.shape[1]
    if sentence != config.sentence:
        problem = f"{checkpoint.name} takes sentences of {config.sentence}, {clip.name} gives {sentence}"
        raise UsageError(problem, "give the CLIP that it was trained with, ViT-B/32 as published")
    rows = tower.token_embedding.num_embeddings
    tokenizer, text = clip_tokenizer(merges, rows=rows, context=tower.context)
    given = (tensor("sentence", "float32", config.sentence),)
    picture = (tensor("image", "float32", config.colors, LAST_SIZE, LAST_SIZE),)
    return FamilyNetworks(
        stages=(
            stage("text_encoder", Sentence(tower), (tensor("input_ids", "int64", "tokens"),), given),
            stage("generator", generator, (*given, tensor("noise", "float32", config.noise)), picture),
        ),
        image_size=(LAST_SIZE, LAST_SIZE),
        image_range=(-1.0, 1.0),
        noise=(NoiseSpec(shape=(config.noise,)),),
        text=text,
        tokenizer=tokenizer,
    )
