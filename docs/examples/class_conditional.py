"""A class-conditional GAN: `tv-export build docs/examples/class_conditional.py:make -o fruit.tv`."""

import torch
from torch import Tensor, nn

from textual_vision.export import StagedModel
from textual_vision.runtime.generation.specs import NoiseSpec


class Generator(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, 16)
        self.start = nn.Linear(32, 16 * 4 * 4)
        self.up = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.Sigmoid())

    def forward(self, noise: Tensor, label: Tensor) -> Tensor:
        condition = torch.cat((noise, self.embedding(label)), dim=1)
        return self.up(self.start(condition).unflatten(1, (16, 4, 4)))


def make() -> StagedModel:
    torch.manual_seed(0)
    return StagedModel.from_modules(
        {"generator": Generator(classes=3).eval()},
        name="fruit",
        noise=NoiseSpec(shape=(16,)),
        labels=("apple", "banana", "cherry"),
        image_range=(0, 1),
    )
