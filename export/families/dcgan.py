"""DCGAN and CGAN: a picture from noise, or from a class label and noise.

DCGAN: Radford, Metz, Chintala, "Unsupervised representation learning with deep convolutional generative
adversarial networks", ICLR 2016; keys as PyTorch's own example saves them (`main.N`). CGAN: Mirza, Osindero,
"Conditional generative adversarial nets", 2014; keys as the common PyTorch implementation saves them
(`label_emb`, `model.N`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from textual_vision.export.families.parts import FamilyNetworks, stage, tensor
from textual_vision.export.families.weights import load_state, read_checkpoint, size_of, state_from_checkpoint
from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.generation.specs import LabelSpec, NoiseSpec

KERNEL = 4
CGAN_SLOPE = 0.2
CGAN_BATCH_NORM_EPS = 0.8  # the common implementation passes it in the place of the epsilon


class DcganGenerator(nn.Module):
    """Transposed convolutions from noise (batch, dim) to a picture (batch, channels, H, W) in [-1, 1].

    `widths` are the channels from the noise to the picture, so there is one layer fewer than widths.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.widths = widths
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(itertools.pairwise(widths)):
            stride, padding = (1, 0) if index == 0 else (2, 1)
            layers.append(nn.ConvTranspose2d(before, after, KERNEL, stride, padding, bias=False))
            last = index == len(widths) - 2
            layers += [nn.Tanh()] if last else [nn.BatchNorm2d(after), nn.ReLU()]
        self.main = nn.Sequential(*layers)

    def forward(self, noise: Tensor) -> Tensor:
        """Picture float32 (batch, channels, H, W) in [-1, 1] from noise (batch, dim)."""
        picture: Tensor = self.main(noise[:, :, None, None])
        return picture

    @property
    def image_size(self) -> int:
        """Height and width in pixels: 4 after the first layer, doubled by each other one."""
        layers = sum(isinstance(layer, nn.ConvTranspose2d) for layer in self.main)
        return int(KERNEL * 2 ** (layers - 1))


def dcgan_from_state(state: Mapping[str, Tensor]) -> DcganGenerator:
    """The generator whose sizes are those of the state's tensors, without its weights."""
    weights = [key for key in state if key.endswith(".weight") and state[key].dim() == 4]
    ordered = sorted(weights, key=lambda key: int(key.split(".")[1]))
    if not ordered:
        raise IntegrityError("the state dict has no transposed convolution", "check --family dcgan")
    widths = (size_of(state, ordered[0], 0), *(size_of(state, key, 1) for key in ordered))
    return DcganGenerator(widths)


class CganGenerator(nn.Module):
    """Linear layers from a label's embedding and noise to a picture (batch, channels, H, W) in [-1, 1]."""

    def __init__(self, *, classes: int, embedding: int, noise_dim: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.label_emb = nn.Embedding(classes, embedding)
        self.noise_dim = noise_dim
        layers: list[nn.Module] = []
        inputs = (embedding + noise_dim, *widths)
        for index, (before, after) in enumerate(zip(inputs, widths, strict=False)):
            layers.append(nn.Linear(before, after))
            if index == len(widths) - 1:
                layers.append(nn.Tanh())
                continue
            if index:
                layers.append(nn.BatchNorm1d(after, CGAN_BATCH_NORM_EPS))
            layers.append(nn.LeakyReLU(CGAN_SLOPE))
        self.model = nn.Sequential(*layers)
        self.image_shape = image_shape_from_count(widths[-1])

    def forward(self, label: Tensor, noise: Tensor) -> Tensor:
        """Picture in [-1, 1] from label int64 (batch,) and noise float32 (batch, noise_dim)."""
        flat = self.model(torch.cat((self.label_emb(label), noise), dim=1))
        picture: Tensor = flat.unflatten(1, self.image_shape)
        return picture


def image_shape_from_count(values: int) -> tuple[int, int, int]:
    """(channels, height, width) of a square picture of `values` numbers: gray where that is square, else RGB.

    Raises IntegrityError when neither is.
    """
    for channels in (1, 3):
        side = math.isqrt(values // channels)
        if side * side * channels == values:
            return channels, side, side
    raise IntegrityError(f"{values} values are no square picture", "the family's pictures are square")


def cgan_from_state(state: Mapping[str, Tensor]) -> CganGenerator:
    """The generator whose sizes are those of the state's tensors, without its weights."""
    linear = [key for key in state if key.startswith("model.") and state[key].dim() == 2]
    ordered = sorted(linear, key=lambda key: int(key.split(".")[1]))
    if not ordered:
        raise IntegrityError("the state dict has no linear layer", "check --family cgan")
    embedding = size_of(state, "label_emb.weight", 1)
    return CganGenerator(
        classes=size_of(state, "label_emb.weight", 0),
        embedding=embedding,
        noise_dim=size_of(state, ordered[0], 1) - embedding,
        widths=tuple(size_of(state, key, 0) for key in ordered),
    )


def load_dcgan(generator: Path) -> FamilyNetworks:
    """DCGAN's generator: a picture from noise alone."""
    state = state_from_checkpoint(read_checkpoint(generator))
    network = dcgan_from_state(state)
    load_state(network, state, generator.name)
    size, noise_dim = network.image_size, network.widths[0]
    picture = tensor("image", "float32", network.widths[-1], size, size)
    return FamilyNetworks(
        stages=(stage("generator", network, (tensor("noise", "float32", noise_dim),), (picture,)),),
        image_size=(size, size),
        image_range=(-1.0, 1.0),
        noise=(NoiseSpec(shape=(noise_dim,)),),
    )


def load_cgan(generator: Path) -> FamilyNetworks:
    """CGAN's generator: a picture from a class, by its number, and noise."""
    state = state_from_checkpoint(read_checkpoint(generator))
    network = cgan_from_state(state)
    load_state(network, state, generator.name)
    inputs = (tensor("label", "int64"), tensor("noise", "float32", network.noise_dim))
    return FamilyNetworks(
        stages=(stage("generator", network, inputs, (tensor("image", "float32", *network.image_shape),)),),
        image_size=network.image_shape[1:],
        image_range=(-1.0, 1.0),
        noise=(NoiseSpec(shape=(network.noise_dim,)),),
        labels=LabelSpec(names=tuple(map(str, range(network.label_emb.num_embeddings)))),
    )
