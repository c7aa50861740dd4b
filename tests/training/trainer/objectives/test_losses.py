"""Every term against its formula, written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as kl_of_distributions
from torch.nn import functional as F

from textual_vision.training.config import LossConfig
from textual_vision.training.models.efficientnet import Perceptual
from textual_vision.training.trainer.objectives import losses
from textual_vision.training.trainer.objectives.reconstruction import psnr

HARD = LossConfig(label_smoothing=0.0)
SMOOTH = LossConfig(label_smoothing=0.5)


def test_kl_is_the_divergence_from_a_standard_normal_summed_over_dimensions() -> None:
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    expected = kl_of_distributions(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(losses.kl_divergence(mean, log_variance), expected)


def test_code_cross_entropy_without_smoothing_is_cross_entropy_of_scaled_logits() -> None:
    raw, codes = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    rows = F.normalize(torch.randn(4, 3), dim=1)
    found = losses.code_cross_entropy(raw, codes, rows, HARD)
    torch.testing.assert_close(found, F.cross_entropy(HARD.logit_scale * raw @ rows.T, codes))


def test_smoothing_is_cross_entropy_to_targets_spread_by_cosine() -> None:
    raw, codes = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    rows = F.normalize(torch.randn(4, 3), dim=1)
    spread = (rows @ rows.T * SMOOTH.label_smoothing_scale).softmax(1)
    target = (0.5 * torch.eye(4) + 0.5 * spread)[codes]
    found = losses.code_cross_entropy(raw, codes, rows, SMOOTH)
    torch.testing.assert_close(found, F.cross_entropy(SMOOTH.logit_scale * raw @ rows.T, target))


def test_adversarial_losses_are_the_papers_on_probabilities() -> None:
    real, fake, wrong = torch.randn(4), torch.randn(4), torch.randn(4)
    log = torch.log
    expected = -log(real.sigmoid()).mean() - log(1 - fake.sigmoid()).mean()
    torch.testing.assert_close(losses.discriminator_loss(real, fake, None, 1.0), expected)
    torch.testing.assert_close(losses.discriminator_loss(real, fake, wrong, 0.0), expected)
    both = (-log(1 - fake.sigmoid()).mean() - log(1 - wrong.sigmoid()).mean()) / 2
    with_wrong = losses.discriminator_loss(real, fake, wrong, 1.0)
    torch.testing.assert_close(with_wrong, -log(real.sigmoid()).mean() + both)
    torch.testing.assert_close(losses.generator_loss(fake), -log(fake.sigmoid()).mean())


def test_augmentation_keeps_shape_passes_gradients_and_follows_its_numbers() -> None:
    pictures = torch.rand(2, 3, 16, 16, requires_grad=True)
    chance = torch.rand(2, 4)
    first, second = losses.diff_augment(pictures, chance), losses.diff_augment(pictures, chance)
    assert first.shape == pictures.shape
    assert torch.equal(first, second)
    first.sum().backward()  # type: ignore[no-untyped-call]
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0


def test_augmentation_in_the_middle_of_its_range_changes_nothing() -> None:
    pictures = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(losses.diff_augment(pictures, torch.full((2, 4), 0.5)), pictures)


def test_perceptual_distance_is_zero_for_the_same_picture_and_grows_with_blur() -> None:
    distance = Perceptual()
    distance.train()
    assert not any(module.training for module in distance.modules())
    torch.manual_seed(0)
    picture = F.interpolate(torch.rand(1, 3, 8, 8) * 2 - 1, (32, 32))
    blurred = F.avg_pool2d(picture, 3, 1, 1)
    more = F.avg_pool2d(picture, 7, 1, 3)
    assert distance(picture, picture) == 0
    assert 0 < distance(blurred, picture) < distance(more, picture)


def test_psnr_is_in_decibels_of_the_whole_range() -> None:
    real = torch.zeros(2, 3, 4, 4)
    assert float(psnr(real + 0.02, real)) == pytest.approx(20 * math.log10(2 / 0.02), rel=1e-5)
