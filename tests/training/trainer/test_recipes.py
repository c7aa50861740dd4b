"""Every shipped recipe trains: a few steps of each phase of the real configs, on enlarged shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn
from trained import assert_trained

from textual_vision.training.checkpoint import load_checkpoint
from textual_vision.training.config import PhaseConfig, TrainConfig
from textual_vision.training.config_file import load_config
from textual_vision.training.data.batches import PictureSource
from textual_vision.training.models.discriminator import PixelDiscriminator, make_discriminator
from textual_vision.training.trainer.state import PHASES, read_log
from textual_vision.training.trainer.trainer import run

STEPS, BATCH_SIZE = 2, 6
MAX_BLOCKS = 4  # coco-256 has twelve, which take minutes a step on two cores


class EnlargedShapes:
    """`Shapes` at `size` pixels a side."""

    def __init__(self, shapes: PictureSource, size: int) -> None:
        self.shapes, self.size = shapes, size

    def __len__(self) -> int:
        return len(self.shapes)

    def __getattr__(self, name: str) -> object:
        return getattr(self.shapes, name)

    def picture(self, index: int) -> NDArray[np.uint8]:
        picture = self.shapes.picture(index)
        return np.kron(picture, np.ones((self.size // len(picture),) * 2 + (1,), np.uint8))


def shortened(config: TrainConfig) -> TrainConfig:
    """The recipe with two steps a phase, and text codes for the few words of the shapes."""
    phases = {
        f"{name}_phase": PhaseConfig(steps=STEPS, batch_size=BATCH_SIZE, learning_rate=1e-4)
        for name in PHASES
    }
    text = replace(config.model.text, vocabulary=600, codebook_size=12)
    retrieval = config.model.retrieval
    if retrieval.entries != 0:
        retrieval = replace(retrieval, entries=None)  # as many as there are shapes
    blocks = min(config.model.latent.blocks, MAX_BLOCKS)
    latent = replace(config.model.latent, blocks=blocks)
    model = replace(config.model, text=text, latent=latent, retrieval=retrieval)
    return replace(config, model=model, precision="float32", **phases)


def train_two_steps(name: str, shapes: PictureSource, folder: Path) -> None:
    config = shortened(load_config(name))
    source = EnlargedShapes(shapes, config.model.image_size)
    run(config, source, "notice", folder, resume=False, on_progress=lambda line: None)  # type: ignore[arg-type]
    assert_trained(folder, steps=STEPS)
    assert {"generator", "discriminator"} <= [line for line in read_log(folder) if "loss" in line][-1].keys()
    load_checkpoint(str(folder / "checkpoint"))  # refuses weights that are not finite


@pytest.mark.parametrize("name", ["emoji-64", "paper-64"])
def test_a_recipe_takes_two_steps_of_every_phase(name: str, shapes: PictureSource, tmp_path: Path) -> None:
    train_two_steps(name, shapes, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["emoji-128", "coco-256"])
def test_an_experimental_recipe_takes_two_steps_of_every_phase(
    name: str, shapes: PictureSource, tmp_path: Path
) -> None:
    train_two_steps(name, shapes, tmp_path / "run")


def test_the_recipe_of_the_paper_has_its_discriminator_its_losses_and_its_generator() -> None:
    config = load_config("paper-64")
    discriminator = make_discriminator(config.model)
    assert isinstance(discriminator, PixelDiscriminator)
    kinds = {type(module) for block in discriminator.blocks for module in block}
    assert kinds == {nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU}
    assert config.losses.adversarial > 0 and config.losses.mismatched_caption == 0
    assert config.model.latent.steps == 1 and config.model.retrieval.entries == 0
