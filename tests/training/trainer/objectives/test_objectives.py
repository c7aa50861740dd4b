"""What is held to a picture, and what only has to convince."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from noise_batches import batch_of
from torch import Tensor

from textual_vision.training.config import LossConfig, TrainConfig
from textual_vision.training.data.batches import StepRandom, TrainingBatch
from textual_vision.training.models.discriminator import PixelDiscriminator
from textual_vision.training.models.text_to_image import TextToImageModel
from textual_vision.training.trainer.objectives.joint import JointObjective
from textual_vision.training.trainer.objectives.latent import LatentObjective
from textual_vision.training.trainer.objectives.losses import code_cross_entropy
from textual_vision.training.trainer.objectives.reconstruction import PictureDistance

COUNT = 6


@pytest.fixture
def batch() -> TrainingBatch:
    return batch_of(list(range(COUNT)), COUNT)


def joint(config: TrainConfig) -> tuple[JointObjective, TextToImageModel]:
    """The objective with nothing but its pictures and the discriminator."""
    losses = replace(config.losses, code_cross_entropy=0.0, kl=0.0)
    model = TextToImageModel(config.model, config.sampling)
    distance = PictureDistance(losses)
    return JointObjective(model, losses, distance, PixelDiscriminator(config.model)), model


def test_what_is_drawn_from_words_alone_is_not_held_to_the_picture(
    tiny_config: TrainConfig, batch: TrainingBatch
) -> None:
    objective, model = joint(tiny_config)
    held: list[Tensor] = []
    shown: list[Tensor] = []
    objective.distance.register_forward_hook(lambda module, given, out: held.append(given[1]))
    objective.generator.register_forward_hook(lambda module, given, out: shown.append(given[0]))
    objective(batch, StepRandom(0, "joint", 0), 0.0)
    torch.testing.assert_close(held, [batch.pictures[::3], batch.pictures[1::3]])
    own = model.codebook.lookup(model.codebook.nearest(model.image_encoder(batch.pictures)))
    torch.testing.assert_close(shown[0][::3], own[::3])
    same = (shown[0] - own).abs().amax(1) < 1e-5
    schedule = model.latent.schedule
    coarse = schedule.codes_of_step(schedule.steps - schedule.fine_steps)[0]
    first = schedule.order[:coarse]
    assert bool(same[1::3].flatten(1)[:, first].all())  # the coarse codes of the second third are its own
    assert not bool(same[1::3].all()) and float(same[2::3].float().mean()) < 0.5


def test_the_discriminator_moves_the_generator_and_the_choice_of_fine_codes(
    tiny_config: TrainConfig, batch: TrainingBatch
) -> None:
    objective, model = joint(tiny_config)
    loss, _, _ = objective(batch, StepRandom(0, "joint", 0), 0.5)
    loss.backward()
    for weight in (model.generator.entry.weight, model.latent.head.latent.weight):
        assert weight.grad is not None and bool(weight.grad.abs().sum() > 0)
    position = model.latent.position.grad
    assert position is not None
    schedule = model.latent.schedule
    coarse = schedule.patch_bounds[schedule.steps - schedule.fine_steps]  # patches
    moved = (position.abs().sum(1) > 0).tolist()
    assert moved == [False] * coarse + [True] * (len(moved) - coarse)


def test_continued_codes_are_the_sampled_codes(tiny_config: TrainConfig) -> None:
    model = TextToImageModel(tiny_config.model, tiny_config.sampling)
    text, mask, noise = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.long), torch.randn(2, 4)
    network, book = model.latent, model.codebook
    schedule, sampler = network.schedule, model.sampler
    sampled = sampler(text, mask, noise, book)
    inputs = sampler.inputs(text, mask, noise, network.retrieve(text, mask, noise, book))
    none = torch.zeros(2, 0, dtype=torch.long)
    continued = sampler.continue_codes(inputs, none, book, schedule.fine_steps)
    torch.testing.assert_close(continued.vectors, book.lookup(sampled.codes))
    first = sampled.codes.flatten(1)[:, schedule.order[: schedule.codes_of_step(0)[1]]]
    again = sampler.continue_codes(inputs, first, book, schedule.fine_steps)
    torch.testing.assert_close(again.vectors, continued.vectors)
    continued.vectors.sum().backward()
    assert network.head.latent.weight.grad is not None


def latent_losses(config: TrainConfig, **changed: float) -> LossConfig:
    return replace(config.losses, **{"kl": 0.0, "label_smoothing": 0.0, **changed})


def test_every_step_of_a_picture_is_learned_and_counts_the_same(
    tiny_config: TrainConfig, batch: TrainingBatch
) -> None:
    model = TextToImageModel(tiny_config.model, tiny_config.sampling)
    network, book = model.latent, model.codebook
    told: list[Tensor] = []
    found: list[Tensor] = []
    network.register_forward_pre_hook(lambda module, given: told.append(given[1]))
    network.register_forward_hook(lambda module, given, out: found.append(out))
    losses = latent_losses(tiny_config, token_corruption=0.0, text_dropout=0.0)
    _, terms = LatentObjective(model, losses)(batch, StepRandom(0, "latent", 0))
    codes = book.nearest(model.image_encoder(batch.pictures)).flatten(1)[:, network.schedule.order]
    torch.testing.assert_close(told, [book.rows[codes]])
    each = [
        code_cross_entropy(found[0][:, a:b].flatten(0, 1), codes[:, a:b].flatten(), book.rows, losses)
        for a, b in map(network.schedule.codes_of_step, range(network.config.steps))
    ]
    torch.testing.assert_close(terms["code_cross_entropy"], torch.stack(each).mean())


def test_a_share_of_the_codes_is_told_falsely(tiny_config: TrainConfig) -> None:
    objective = LatentObjective(
        TextToImageModel(tiny_config.model, tiny_config.sampling),
        replace(tiny_config.losses, token_corruption=0.25),
    )
    codes = torch.arange(64 * 64).view(64, 64)
    found = objective._corrupt_tokens(codes, StepRandom(0, "latent", 0))
    assert float((found != codes).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert all(set(row.tolist()) <= set(own.tolist()) for row, own in zip(found, codes, strict=True))


def test_the_words_of_a_share_of_the_captions_are_dropped(tiny_config: TrainConfig) -> None:
    losses = replace(tiny_config.losses, text_dropout=0.25)
    objective = LatentObjective(TextToImageModel(tiny_config.model, tiny_config.sampling), losses)
    found = objective._drop_text(torch.ones(400, 3, 16), StepRandom(0, "latent", 0)).flatten(1)
    assert bool(((found == 0).all(1) | (found == 1).all(1)).all())
    assert float((found == 0).all(1).float().mean()) == pytest.approx(0.25, abs=0.07)
