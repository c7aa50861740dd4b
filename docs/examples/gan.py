"""A GAN without a condition: `tv-export build docs/examples/gan.py:make -o gan.tv`."""

import torch
from torch import Tensor, nn

from textual_vision.export import StagedModel
from textual_vision.runtime.generation.specs import NoiseSpec


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start = nn.ConvTranspose2d(32, 32, 4, bias=False)
        self.up = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh())

    def forward(self, noise: Tensor) -> Tensor:
        return self.up(self.start(noise))


def make() -> StagedModel:
    torch.manual_seed(0)
    generator = Generator().eval()  # load your weights here: generator.load_state_dict(torch.load(…))
    return StagedModel.from_modules(
        {"generator": generator}, name="gan", noise=NoiseSpec(shape=(32, 1, 1)), image_range=(-1, 1)
    )
