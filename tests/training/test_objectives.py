"""What is held to a picture, and what only has to convince."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from textual_vision.training.batches import Batch, StepRandom
from textual_vision.training.config import LossConfig, TrainConfig
from textual_vision.training.discriminator import Discriminator
from textual_vision.training.model import TextToImageModel
from textual_vision.training.objectives import JointObjective, LatentObjective, PictureDistance

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


def joint(config: TrainConfig) -> tuple[JointObjective, TextToImageModel]:
    """The objective with nothing but its pictures and the discriminator."""
    losses = replace(config.losses, code_cross_entropy=0.0, kl=0.0)
    model = TextToImageModel(config.model)
    distance = PictureDistance(losses)
    return JointObjective(model, losses, distance, Discriminator(config.model)), model


def test_only_what_is_drawn_from_a_pictures_own_codes_is_held_to_the_picture(
    tiny_config: TrainConfig, batch: Batch
) -> None:
    objective, model = joint(tiny_config)
    held: list[Tensor] = []
    shown: list[Tensor] = []
    objective.distance.register_forward_hook(lambda module, given, out: held.append(given[1]))
    objective.generator.register_forward_hook(lambda module, given, out: shown.append(given[0]))
    objective(batch, StepRandom(0, "joint", 0), 0.0)
    torch.testing.assert_close(held[0], batch.pictures[::2])
    own = model.codebook.lookup(model.codebook.nearest(model.image_encoder(batch.pictures)))
    torch.testing.assert_close(shown[0][::2], own[::2])
    assert not torch.equal(shown[0][1::2], own[1::2])


def test_the_discriminator_moves_the_generator_and_not_the_choice_of_codes(
    tiny_config: TrainConfig, batch: Batch
) -> None:
    objective, model = joint(tiny_config)
    loss, _, _ = objective(batch, StepRandom(0, "joint", 0), 0.5)
    loss.backward()
    moved, unmoved = model.generator.entry.weight.grad, model.latent.latents.weight.grad
    assert moved is not None and bool(moved.abs().sum() > 0)
    assert unmoved is None or not bool(unmoved.abs().sum() > 0)


def latent_losses(config: TrainConfig, **changed: float) -> LossConfig:
    return replace(config.losses, **{"kl": 0.0, "code_smoothing": 0.0, **changed})


def test_a_step_is_told_the_codes_before_it_and_no_other(tiny_config: TrainConfig, batch: Batch) -> None:
    model = TextToImageModel(tiny_config.model)
    told: list[tuple[Tensor, int]] = []
    model.latent.register_forward_hook(lambda module, given, out: told.append((given[1], given[2])))
    losses = latent_losses(tiny_config, code_noise=0.0, words_dropped=0.0)
    LatentObjective(model, losses)(batch, StepRandom(0, "latent", 0))
    codes = model.codebook.nearest(model.image_encoder(batch.pictures)).flatten(1)[:, model.latent.order]
    assert [step for _, step in told] == sorted({step for _, step in told})  # one coarse, one fine
    for rows, step in told:
        before, _ = model.latent.positions(step)
        torch.testing.assert_close(rows, model.codebook.rows[codes[:, :before]])


def test_all_steps_have_their_turn(tiny_config: TrainConfig) -> None:
    objective = LatentObjective(TextToImageModel(tiny_config.model), tiny_config.losses)
    seen = {step for number in range(40) for step in objective._steps(StepRandom(0, "latent", number))}
    assert seen == set(range(tiny_config.model.latent.steps))


def test_a_share_of_the_codes_is_told_falsely(tiny_config: TrainConfig) -> None:
    objective = LatentObjective(
        TextToImageModel(tiny_config.model), replace(tiny_config.losses, code_noise=0.25)
    )
    codes = torch.arange(64 * 64).view(64, 64)
    found = objective._with_mistakes(codes, StepRandom(0, "latent", 0))
    assert float((found != codes).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert all(set(row.tolist()) <= set(own.tolist()) for row, own in zip(found, codes, strict=True))


def test_the_words_of_a_share_of_the_captions_are_dropped(tiny_config: TrainConfig) -> None:
    losses = replace(tiny_config.losses, words_dropped=0.25)
    objective = LatentObjective(TextToImageModel(tiny_config.model), losses)
    found = objective._dropped(torch.ones(400, 3, 16), StepRandom(0, "latent", 0)).flatten(1)
    assert bool(((found == 0).all(1) | (found == 1).all(1)).all())
    assert float((found == 0).all(1).float().mean()) == pytest.approx(0.25, abs=0.07)
