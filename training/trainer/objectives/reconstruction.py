"""The objectives that compare a picture with its reconstruction from codes.

An objective is a module whose forward takes a batch and returns a loss and its terms, so that accelerate can
wrap it. It refers to parts of the model and copies none.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.config import LossConfig
from textual_vision.training.data.batches import StepRandom, TrainingBatch
from textual_vision.training.models.efficientnet import Perceptual
from textual_vision.training.models.text_to_image import TextToImageModel

Terms = dict[str, Tensor]


class PictureDistance(nn.Module):
    """The weighted sum of L1, L2 and perceptual distance."""

    def __init__(self, losses: LossConfig) -> None:
        super().__init__()
        self.losses = losses
        self.perceptual = Perceptual() if losses.perceptual > 0 else None

    def forward(self, generated: Tensor, real: Tensor) -> Tensor:
        """Two (B, 3, H, W) in [-1, 1] -> scalar."""
        loss = self.losses.l1 * F.l1_loss(generated, real) + self.losses.l2 * F.mse_loss(generated, real)
        if self.perceptual is not None:
            loss = loss + self.losses.perceptual * self.perceptual(generated, real)
        return loss


class CodebookObjective(nn.Module):
    """Phase 1: picture -> codes -> picture; the codebook moves by averages, not by gradients."""

    def __init__(self, model: TextToImageModel, losses: LossConfig, distance: PictureDistance) -> None:
        super().__init__()
        self.image_encoder = model.image_encoder
        self.codebook = model.codebook
        self.words = model.text_encoder.words
        self.generator = model.generator
        self.distance = distance
        self.losses = losses
        self.noise_width = model.config.noise

    def forward(self, batch: TrainingBatch, random: StepRandom) -> tuple[Tensor, Terms]:
        """Loss and terms; in training mode the codebook is updated."""
        latents = self.image_encoder(batch.pictures).float()
        with in_full_precision(latents):
            codes = self.codebook.nearest(latents)
            rows = self.codebook.lookup(codes)
            if self.training:
                self.codebook.update(latents.detach().flatten(0, 2), codes.flatten())
        return self.reconstruction(latents, rows, batch, random)

    def reconstruction(
        self, latents: Tensor, rows: Tensor, batch: TrainingBatch, random: StepRandom
    ) -> tuple[Tensor, Terms]:
        """Loss and terms of the pictures generated from rows (B, D, h, w) of latents (B, h, w, D).

        Gradients pass the quantization straight through (Bengio et al. 2013).
        """
        real, flat = batch.pictures, latents.permute(0, 3, 1, 2)
        commitment = F.mse_loss(flat, rows) * flat.shape[1]
        text, _ = self.words(batch.text_codes, batch.attention_mask)
        noise = random.normal(len(real), self.noise_width).to(real.device)
        generated = self.generator(flat + (rows - flat).detach(), text, batch.attention_mask, noise)
        generated = generated.float()
        picture = self.distance(generated, real)
        terms = {"picture": picture, "commitment": commitment, "psnr": psnr(generated, real)}
        return picture + self.losses.commitment * commitment, terms


class EncoderObjective(nn.Module):
    """Phase 3: the image encoder learns the codes that the changed generator reconstructs best.

    The codebook is fixed: the latent network was trained on its rows.
    """

    def __init__(self, codebook_objective: CodebookObjective) -> None:
        super().__init__()
        self.image_encoder = codebook_objective.image_encoder
        self._codebook_objective = (codebook_objective,)  # a tuple hides its parameters from the optimizer

    def forward(self, batch: TrainingBatch, random: StepRandom) -> tuple[Tensor, Terms]:
        """Loss and terms."""
        (objective,) = self._codebook_objective
        latents = self.image_encoder(batch.pictures).float()
        with in_full_precision(latents):
            rows = objective.codebook.lookup(objective.codebook.nearest(latents))
        return objective.reconstruction(latents, rows, batch, random)


def in_full_precision(x: Tensor) -> torch.autocast:
    """A context without autocast: half precision would choose other codes."""
    return torch.autocast(x.device.type, enabled=False)


def psnr(generated: Tensor, real: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], (B, 3, H, W), as a mean over them."""
    error = (generated.detach() - real).square().flatten(1).mean(1).clamp_min(1e-10)
    return (10 * torch.log10(4.0 / error)).mean()
