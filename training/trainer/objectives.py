"""The objectives of the codebook phase and the latent phase.

An objective is a module whose forward takes a batch and returns a loss and its terms, so that accelerate can
wrap it. It refers to parts of the model and copies none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.config import LossConfig
from textual_vision.training.data.batches import StepRandom, TrainingBatch
from textual_vision.training.models.efficientnet import Perceptual
from textual_vision.training.models.image_encoder import reparameterize
from textual_vision.training.models.latent.retrieval import RetrievalTraining
from textual_vision.training.models.text_to_image import TextToImageModel
from textual_vision.training.trainer.losses import code_cross_entropy, kl_divergence
from textual_vision.training.trainer.retrieval_augmentation import retrieval_augmentation

Terms = dict[str, Tensor]
AGREEMENT_STRIDE = 16  # cells; the logged code agreement is of every 16th cell
PRIOR_NOISE_SHARE = 0.5  # share of the captions with a style whose noise is of the prior


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


@dataclass(frozen=True, kw_only=True)
class LatentTargets:
    """Targets and inputs of the latent network for one batch."""

    codes: Tensor  # int64 (B, h, w): codes of the pictures
    text: Tensor  # (B, T, C)
    noise: Tensor  # (B, Z)
    retrieval: RetrievalTraining | None


class LatentObjective(nn.Module):
    """Phase 2: text and noise -> codes of the picture, with the noise of a posterior over the picture."""

    def __init__(self, model: TextToImageModel, losses: LossConfig) -> None:
        super().__init__()
        self.latent = model.latent
        self.posterior = model.posterior
        self.losses = losses
        # A tuple hides their parameters from the optimizer. The text rows must stay as they were when the
        # retrieval index was filled.
        self._fixed = (model.image_encoder, model.codebook, model.text_encoder.words)

    def forward(self, batch: TrainingBatch, random: StepRandom) -> tuple[Tensor, Terms]:
        """Loss and terms."""
        loss, terms, _ = self.predict(batch, random, self.latent.config.steps)
        return loss, terms

    def predict(
        self, batch: TrainingBatch, random: StepRandom, steps: int
    ) -> tuple[Tensor, Terms, LatentTargets]:
        """Loss of the first `steps` decoding steps with equal weights, terms, and the targets."""
        encoder, book, words = self._fixed
        with torch.no_grad(), in_full_precision(batch.pictures):
            codes = book.nearest(encoder(batch.pictures))
        with torch.no_grad():
            text, _ = words(batch.text_codes, batch.attention_mask)
        noise, kl = self._sample_noise(batch, random)
        target = codes.flatten(1)[:, self.latent.order]
        index = self.latent.memory
        retrieval = None if index is None else retrieval_augmentation(index, batch, codes, random)
        with in_full_precision(noise):  # rounded scores would change which pictures are retrieved
            drafts = self.latent.drafts(text.float(), batch.attention_mask, noise.float(), book, retrieval)
        context = self.latent.context(self._drop_text(text, random), batch.attention_mask, noise, drafts)
        known = self._corrupt_tokens(target, random)[:, : self.latent.positions(steps - 1)[1]]
        raw = self.latent(context, F.embedding(known, book.rows)).float()
        with in_full_precision(raw):
            entropy, agreement = self._step_losses(raw, target, steps)
        terms = {"code_cross_entropy": entropy, "kl": kl, "code_agreement": agreement}
        loss = self.losses.code_cross_entropy * entropy + self.losses.kl * kl
        return loss, terms, LatentTargets(codes=codes, text=text, noise=noise, retrieval=retrieval)

    def _step_losses(self, raw: Tensor, target: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy of the steps, and the share of the codes that agree with the target."""
        book = self._fixed[1]
        entropy, right = raw.new_zeros(()), []
        for step in range(steps):
            cells = slice(*self.latent.positions(step))
            # Not normalized: the length of a raw latent is its certainty, which `logit_scale` would cap.
            found, expected = raw[:, cells].flatten(0, 1), target[:, cells].flatten()
            entropy = entropy + code_cross_entropy(found, expected, book.rows, self.losses) / steps
            some = slice(None, None, AGREEMENT_STRIDE)
            right.append((book.nearest(found.detach()[some]) == expected[some]).float().mean())
        return entropy, torch.stack(right).mean()

    def _corrupt_tokens(self, codes: Tensor, random: StepRandom) -> Tensor:
        """Codes (B, N), a share of them replaced by other codes of the same picture."""
        chance = random.uniform(len(codes), 2, codes.shape[1]).to(codes.device)
        elsewhere = codes.gather(1, (chance[:, 0] * codes.shape[1]).long())
        return torch.where(chance[:, 1] < self.losses.token_corruption, elsewhere, codes)

    def _drop_text(self, text: Tensor, random: StepRandom) -> Tensor:
        """Text (B, T, C), zeros for a share of the captions: the unconditional case of guidance."""
        kept = random.uniform(len(text)).to(text.device) >= self.losses.text_dropout
        return text * kept[:, None, None]

    def _sample_noise(self, batch: TrainingBatch, random: StepRandom) -> tuple[Tensor, Tensor]:
        """Noise (B, Z) and its KL divergence: of the posterior, for a share of the captions of the prior.

        A caption with a style leaves little open, so its picture can be predicted from the caption alone.
        """
        device = batch.pictures.device
        mean, log_variance = self.posterior(batch.pictures)
        normal = random.normal(*mean.shape).to(device)
        prior = random.uniform(len(mean)).to(device) < PRIOR_NOISE_SHARE
        prior = (prior & batch.style_named.to(device))[:, None]
        noise = torch.where(prior, normal, reparameterize(mean, log_variance, normal))
        return noise, kl_divergence(mean, log_variance)


def in_full_precision(x: Tensor) -> torch.autocast:
    """A context without autocast: half precision would choose other codes."""
    return torch.autocast(x.device.type, enabled=False)


def psnr(generated: Tensor, real: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], (B, 3, H, W), as a mean over them."""
    error = (generated.detach() - real).square().flatten(1).mean(1).clamp_min(1e-10)
    return (10 * torch.log10(4.0 / error)).mean()
