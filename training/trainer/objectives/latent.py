"""The objective of the latent phase: text and noise to the codes of a picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.config import LossConfig
from textual_vision.training.data.batches import StepRandom, TrainingBatch
from textual_vision.training.models.image_encoder import reparameterize
from textual_vision.training.models.latent.retrieval_index import RetrievalTraining
from textual_vision.training.models.text_to_image import TextToImageModel
from textual_vision.training.trainer.objectives.losses import code_cross_entropy, kl_divergence
from textual_vision.training.trainer.objectives.reconstruction import Terms, in_full_precision
from textual_vision.training.trainer.objectives.retrieval_augmentation import retrieval_augmentation

AGREEMENT_STRIDE = 16  # cells; the logged code agreement is of every 16th cell
PRIOR_NOISE_SHARE = 0.5  # share of the captions with a style whose noise is of the prior


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
        target = codes.flatten(1)[:, self.latent.schedule.order]
        index = self.latent.retrieval
        retrieval = None if index is None else retrieval_augmentation(index, batch, codes, random)
        with in_full_precision(noise):  # rounded scores would change which pictures are retrieved
            retrieved = self.latent.retrieve(
                text.float(), batch.attention_mask, noise.float(), book, retrieval
            )
        context = self.latent.context(self._drop_text(text, random), batch.attention_mask, noise, retrieved)
        known = self._corrupt_tokens(target, random)[:, : self.latent.schedule.codes_of_step(steps - 1)[1]]
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
            cells = slice(*self.latent.schedule.codes_of_step(step))
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
