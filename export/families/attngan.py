"""AttnGAN: three generators of doubling resolution, the later two attending to the words of the prompt.

Xu et al., "AttnGAN: fine-grained text to image generation with attentional generative adversarial networks",
CVPR 2018. Keys are those of its checkpoints: `ca_net`, `h_netN`, `img_netN`.

The original repeats its attention mask over positions in another order than the rows of a batch, so it masks
the right words only in batches of one. Here every row has its own mask, which equals the original run one
prompt at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from textual_vision.export.families.damsm import TextSide, text_from_files
from textual_vision.export.families.parts import FamilyNetworks, stage, tensor
from textual_vision.export.families.weights import load_state, read_checkpoint, size_of, state_from_checkpoint
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.specs import NoiseSpec

FIRST_SIZE = 64  # pixels of the first stage
MAX_WORDS = 18  # of a prompt, as the original cuts captions
START = 4  # height and width of the first feature map
FIRST_UPSAMPLES = 4  # of the first generator: 4 to 64 pixels


class GatedLinearUnit(nn.Module):
    """The first half of the channels, gated by the second half."""

    def forward(self, x: Tensor) -> Tensor:
        """Half as many channels."""
        values, gates = x.chunk(2, dim=1)
        return values * gates.sigmoid()


def convolution(before: int, after: int) -> nn.Conv2d:
    """A 3 × 3 convolution without bias that keeps the size."""
    return nn.Conv2d(before, after, 3, padding=1, bias=False)


def up_block(before: int, after: int) -> nn.Sequential:
    """Doubles the resolution by repetition, then a gated convolution."""
    layers = (
        nn.Upsample(scale_factor=2, mode="nearest"),
        convolution(before, after * 2),
        nn.BatchNorm2d(after * 2),
        GatedLinearUnit(),
    )
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """Two normalized convolutions, the first gated, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            convolution(channels, channels * 2),
            nn.BatchNorm2d(channels * 2),
            GatedLinearUnit(),
            convolution(channels, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        out: Tensor = x + self.block(x)
        return out


class ConditioningAugmentation(nn.Module):
    """A normal distribution around each sentence, sampled with noise of its own."""

    def __init__(self, sentence: int, condition: int) -> None:
        super().__init__()
        self.condition = condition
        self.fc = nn.Linear(sentence, condition * 4)
        self.relu = GatedLinearUnit()

    def forward(self, sentence: Tensor, noise: Tensor) -> Tensor:
        """Condition (batch, condition) = mean + deviation × noise."""
        mean, log_variance = self.relu(self.fc(sentence)).split(self.condition, dim=1)
        sample: Tensor = mean + (0.5 * log_variance).exp() * noise
        return sample


class FirstStage(nn.Module):
    """From condition and noise to features of 64 × 64."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.fc = nn.Sequential(
            nn.Linear(inputs, width * START * START * 2, bias=False),
            nn.BatchNorm1d(width * START * START * 2),
            GatedLinearUnit(),
        )
        for index in range(1, FIRST_UPSAMPLES + 1):
            setattr(self, f"upsample{index}", up_block(width >> (index - 1), width >> index))

    def forward(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Features (batch, width / 16, 64, 64)."""
        x: Tensor = self.fc(torch.cat((condition, noise), dim=1)).unflatten(1, (self.width, START, START))
        for index in range(1, FIRST_UPSAMPLES + 1):
            x = getattr(self, f"upsample{index}")(x)
        return x


class WordAttention(nn.Module):
    """For every position, the words' features mixed by their likeness to the position's features."""

    def __init__(self, features: int, word: int) -> None:
        super().__init__()
        self.conv_context = nn.Conv2d(word, features, 1, bias=False)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Context (batch, features, H, W) and weights (batch, tokens, H, W); words (batch, word, tokens)."""
        source = self.conv_context(words[:, :, :, None])[:, :, :, 0]  # (batch, features, tokens)
        scores = x.flatten(2).transpose(1, 2) @ source  # (batch, positions, tokens)
        scores = scores.masked_fill(mask[:, None, :] == 0, float("-inf"))
        weights = scores.softmax(2).transpose(1, 2)
        context = (source @ weights).unflatten(2, x.shape[2:])
        return context, weights.unflatten(2, x.shape[2:])


class NextStage(nn.Module):
    """Doubles the resolution of features that attended to the words."""

    def __init__(self, width: int, word: int, residual: int) -> None:
        super().__init__()
        self.att = WordAttention(width, word)
        self.residual = nn.Sequential(*(ResidualBlock(width * 2) for _ in range(residual)))
        self.upsample = up_block(width * 2, width)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features (batch, width, 2 H, 2 W) and attention weights (batch, tokens, H, W)."""
        context, weights = self.att(x, words, mask)
        x = self.upsample(self.residual(torch.cat((x, context), dim=1)))
        return x, weights


class ImageHead(nn.Module):
    """Pixels in [-1, 1] from features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.img = nn.Sequential(convolution(width, 3), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """Picture (batch, 3, H, W)."""
        picture: Tensor = self.img(x)
        return picture


class AttnGanGenerator(nn.Module):
    """Three pictures (64², 128², 256²) in [-1, 1] and two attention maps, from sentence, words and noise."""

    def __init__(
        self, *, width: int, word: int, condition: int, noise_dim: int, residual: int, stages: int
    ) -> None:
        super().__init__()
        self.noise_dim, self.condition, self.stages = noise_dim, condition, stages
        self.ca_net = ConditioningAugmentation(word, condition)
        self.h_net1, self.img_net1 = FirstStage(condition + noise_dim, width * 16), ImageHead(width)
        for number in range(2, stages + 1):
            setattr(self, f"h_net{number}", NextStage(width, word, residual))
            setattr(self, f"img_net{number}", ImageHead(width))

    def forward(
        self, words: Tensor, sentence: Tensor, mask: Tensor, noise: Tensor, condition_noise: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Pictures from coarse to fine, and the attention weights of each later stage."""
        condition = self.ca_net(sentence, condition_noise)
        x = self.h_net1(condition, noise)
        pictures, attentions = [self.img_net1(x)], []
        for number in range(2, self.stages + 1):
            x, weights = getattr(self, f"h_net{number}")(x, words, mask)
            pictures.append(getattr(self, f"img_net{number}")(x))
            attentions.append(weights)
        return pictures, attentions


def generator_from_state(
    state: Mapping[str, Tensor], kind: type[AttnGanGenerator] | None = None
) -> AttnGanGenerator:
    """The generator whose sizes are those of the state's tensors, without its weights.

    `kind` is a subclass with other stages.
    """
    condition = size_of(state, "ca_net.fc.weight", 0) // 4
    blocks = {key.split(".")[2] for key in state if key.startswith("h_net2.residual.")}
    return (kind or AttnGanGenerator)(
        width=size_of(state, "img_net1.img.0.weight", 1),
        word=size_of(state, "ca_net.fc.weight", 1),
        condition=condition,
        noise_dim=size_of(state, "h_net1.fc.0.weight", 1) - condition,
        residual=len(blocks),
        stages=max(int(key[len("img_net")]) for key in state if key.startswith("img_net")),
    )


class PicturesAndAttention(nn.Module):
    """The generator's outputs one by one: the finest picture first, then the coarser ones, then attention."""

    def __init__(self, generator: AttnGanGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(
        self, words: Tensor, sentence: Tensor, attention_mask: Tensor, noise: Tensor, condition_noise: Tensor
    ) -> tuple[Tensor, ...]:
        """Pictures float32 (batch, 3, H, W) in [-1, 1]; weights float32 (batch, tokens, H, W)."""
        pictures, attentions = self.generator(words, sentence, attention_mask, noise, condition_noise)
        return (*reversed(pictures), *attentions)


def networks_from_generator(
    network: AttnGanGenerator, side: TextSide, generator_name: str, encoder_name: str
) -> FamilyNetworks:
    """Both stages: the text encoder, and the generator with pictures of all sizes and attention by name.

    Raises UsageError when the text encoder's features are not as wide as the generator takes them.
    """
    if (width := network.ca_net.fc.in_features) != side.width:
        problem = f"{generator_name} takes words of {width}, {encoder_name} gives {side.width}"
        raise UsageError(problem, "give the text encoder that it was trained with")
    prompt = (tensor("input_ids", "int64", "tokens"), tensor("attention_mask", "int64", "tokens"))
    features = (tensor("words", "float32", width, "tokens"), tensor("sentence", "float32", width))
    noise = (
        NoiseSpec(shape=(network.noise_dim,)),
        NoiseSpec(name="condition_noise", shape=(network.condition,)),
    )
    sizes = [FIRST_SIZE << number for number in range(network.stages)]
    pictures = [tensor(f"image_{size}", "float32", 3, size, size) for size in reversed(sizes[:-1])]
    maps = [tensor(f"attention_{size}", "float32", "tokens", size, size) for size in sizes[:-1]]
    inputs = (*features, prompt[1], *(tensor(one.name, "float32", *one.shape) for one in noise))
    outputs = (tensor("image", "float32", 3, sizes[-1], sizes[-1]), *pictures, *maps)
    return FamilyNetworks(
        stages=(
            stage("text_encoder", side.encoder, prompt, features),
            stage("generator", PicturesAndAttention(network), inputs, outputs),
        ),
        image_size=(sizes[-1], sizes[-1]),
        image_range=(-1.0, 1.0),
        noise=noise,
        text=side.text,
        tokenizer=side.tokenizer,
    )


def load_attngan(generator: Path, text_encoder: Path, vocabulary: Path) -> FamilyNetworks:
    """Both stages of AttnGAN, whose code truncates pixels; the text encoder is DAMSM's."""
    state = state_from_checkpoint(read_checkpoint(generator))
    network = generator_from_state(state)
    load_state(network, state, generator.name)
    side = text_from_files(text_encoder, vocabulary, max_words=MAX_WORDS)
    found = networks_from_generator(network, side, generator.name, text_encoder.name)
    return replace(found, rounding="truncate")
