"""What is held to a picture, and what only has to convince."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from textual_vision.training.batches import Batch, StepRandom
from textual_vision.training.config import TrainConfig
from textual_vision.training.discriminator import Discriminator
from textual_vision.training.model import TextToImageModel
from textual_vision.training.objectives import JointObjective, PictureDistance

COUNT = 6


@pytest.fixture
def batch() -> Batch:
    return Batch(
        pictures=torch.rand(COUNT, 3, 16, 16) * 2 - 1,
        text_codes=torch.randint(0, 12, (COUNT, 3, 8)),
        attention_mask=torch.ones(COUNT, 3, dtype=torch.int64),
        style_told=torch.ones(COUNT, dtype=torch.bool),
        captions=[""] * COUNT,
        indices=list(range(COUNT)),
    )


def joint(config: TrainConfig, straight_through: float) -> tuple[JointObjective, TextToImageModel]:
    """The objective with nothing but its pictures and the discriminator."""
    losses = replace(config.losses, code_cross_entropy=0.0, kl=0.0, straight_through=straight_through)
    model = TextToImageModel(config.model)
    distance = PictureDistance(losses)
    return JointObjective(model, losses, distance, Discriminator(config.model)), model


def test_only_what_is_drawn_from_a_pictures_own_codes_is_held_to_the_picture(
    tiny_config: TrainConfig, batch: Batch
) -> None:
    objective, model = joint(tiny_config, 0.0)
    held: list[Tensor] = []
    shown: list[Tensor] = []
    objective.distance.register_forward_hook(lambda module, given, out: held.append(given[1]))
    objective.generator.register_forward_hook(lambda module, given, out: shown.append(given[0]))
    objective(batch, StepRandom(0, "joint", 0), 0.0)
    torch.testing.assert_close(held[0], batch.pictures[::2])
    own = model.codebook.lookup(model.codebook.nearest(model.image_encoder(batch.pictures)))
    torch.testing.assert_close(shown[0][::2], own[::2])
    assert not torch.equal(shown[0][1::2], own[1::2])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_discriminator_reaches_the_latents_by_the_straight_through_share(
    tiny_config: TrainConfig, batch: Batch, share: float
) -> None:
    objective, model = joint(tiny_config, share)
    loss, _, _ = objective(batch, StepRandom(0, "joint", 0), 0.5)
    loss.backward()
    gradient = model.latent.latents.weight.grad
    assert gradient is not None
    assert bool(gradient.abs().sum() > 0) == (share > 0)
