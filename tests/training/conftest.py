"""A model, a corpus and a schedule so small that a whole run takes seconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from textual_vision.training.config import TrainConfig, config_from_dict

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "yellow": (240, 220, 40)}
SHAPES = ("disc", "square", "bar", "cross", "ring", "corner")
SIZE = 16


class Shapes:
    """Twenty-four coloured shapes, a `PictureSource`; half of them are seen twice in an epoch."""

    def __init__(self) -> None:
        self.pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]

    def __len__(self) -> int:
        return len(self.pairs)

    def picture(self, index: int) -> NDArray[np.uint8]:
        colour, shape = self.pairs[index]
        y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2 + 0.5
        radius = np.hypot(x, y)
        inside = {
            "disc": radius < 5,
            "square": np.maximum(abs(x), abs(y)) < 5,
            "bar": abs(y) < 2.5,
            "cross": np.minimum(abs(x), abs(y)) < 2,
            "ring": (radius < 7) & (radius > 4),
            "corner": (x < 0) & (y < 0),
        }[shape]
        return np.where(inside[:, :, None], COLOURS[colour], 255).astype(np.uint8)

    def captions(self, index: int) -> Sequence[str]:
        colour, shape = self.pairs[index]
        return (f"{colour} {shape}", f"a {shape} that is {colour}")

    def style(self, index: int) -> str:
        return "flat" if index % 3 else "bold"

    def weight(self, index: int) -> int:
        return 1 + index % 2


TINY = {
    "name": "tiny",
    "corpus": "folder",
    "seed": 5,
    "model": {
        "image_size": SIZE,
        "noise": 4,
        "text": {
            "vocabulary": 600, "layers": 1, "groups": 8, "codes": 12, "width": 16, "max_tokens": 12,
        },
        "codebook": {"codes": 16, "width": 8, "channels": [8]},
        "latent": {
            "grid": 8, "coarse": 4, "width": 16, "blocks": 1, "heads": 2, "fine_width": 8, "fine_heads": 2,
        },
        "generator": {"channels": [16, 8], "condition": 16},
        "discriminator": {"channels": [8, 8]},
    },
    "text_phase": {"steps": 3, "batch": 1000, "learning_rate": 0.0},
    "codebook_phase": {"steps": 4, "batch": 8, "learning_rate": 0.002, "warmup": 2},
    "latent_phase": {"steps": 4, "batch": 8, "learning_rate": 0.001, "warmup": 2},
    "joint_phase": {"steps": 4, "batch": 8, "learning_rate": 0.0003, "warmup": 2},
    "losses": {"perceptual": 0.0, "gradient_penalty_every": 2},
    "refresh_every": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Results are compared bit for bit; and the machine may be busy."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny_config() -> TrainConfig:
    return config_from_dict(TrainConfig, TINY)


@pytest.fixture
def shapes() -> Shapes:
    return Shapes()
