"""The objectives of the joint phase: generator and latent network against the discriminator."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from textual_vision.training.config import LossConfig
from textual_vision.training.data.batches import StepRandom, TrainingBatch
from textual_vision.training.models.text_encoder import sentence_from_text
from textual_vision.training.models.text_to_image import TextToImageModel
from textual_vision.training.trainer.objectives.latent import LatentObjective, LatentTargets
from textual_vision.training.trainer.objectives.losses import (
    code_cross_entropy,
    diff_augment,
    discriminator_loss,
    generator_loss,
)
from textual_vision.training.trainer.objectives.reconstruction import (
    PictureDistance,
    Terms,
    in_full_precision,
    psnr,
)

OWN_CODES, OWN_COARSE_CODES, FROM_TEXT = range(3)  # the three thirds of a batch


class JointObjective(nn.Module):
    """Phase 3: pictures generated from their own codes, from some of them, and from the text alone.

    A third of a batch is generated from all of its own codes. A third has its own codes in the coarse steps
    and sampled codes in the fine ones. Both are compared with the picture. The last third is generated from
    its text and has only the adversarial loss: compared with the picture, it would become the mean of all
    pictures that fit the text.
    """

    def __init__(
        self,
        model: TextToImageModel,
        losses: LossConfig,
        distance: PictureDistance,
        discriminator: nn.Module,
    ) -> None:
        super().__init__()
        self.codes = LatentObjective(model, losses)
        self.generator = model.generator
        self.distance = distance
        self.losses = losses
        self._fixed = (model.codebook, discriminator)
        self._sampler = (model.sampler,)

    def forward(
        self, batch: TrainingBatch, random: StepRandom, adversarial: float
    ) -> tuple[Tensor, Terms, Tensor]:
        """Loss, terms and the generated pictures (B, 3, H, W), detached.

        `adversarial` is the weight of the adversarial loss in this step.
        """
        # The coarse steps learn from the cross-entropy alone, the fine ones from pixels too.
        latent = self.codes.latent
        coarse = max(1, latent.config.steps - latent.schedule.fine_steps)
        loss, terms, targets = self.codes.predict(batch, random, coarse)
        kind = torch.arange(len(batch.pictures), device=targets.codes.device) % 3
        targets = self._predict_from_text(targets, kind == FROM_TEXT, random)
        rows, entropy = self._codebook_rows(targets, batch.attention_mask, kind, random)
        generated = self.generator(rows, targets.text, batch.attention_mask, targets.noise).float()
        own, partly = kind == OWN_CODES, kind == OWN_COARSE_CODES
        reconstruction = self.distance(generated[own], batch.pictures[own])
        picture = self.distance(generated[partly], batch.pictures[partly])
        picture = self.losses.reconstruction * reconstruction + picture
        terms |= {"fine_cross_entropy": entropy, "picture": picture}
        terms["psnr"] = psnr(generated[own], batch.pictures[own])
        loss = loss + picture + self.losses.fine_cross_entropy * entropy
        if adversarial > 0:
            sentence = sentence_from_text(targets.text, batch.attention_mask).detach()
            # Without the first third: the adversarial loss would cost it fidelity.
            terms["generator"] = self._discriminate(generated[~own], sentence[~own], random)
            loss = loss + adversarial * terms["generator"]
        return loss, terms, generated.detach()

    def _predict_from_text(self, targets: LatentTargets, which: Tensor, random: StepRandom) -> LatentTargets:
        """The targets with prior noise for the pictures in `which`, and without gradients of the noise."""
        prior = random.normal(*targets.noise.shape).to(targets.noise.device)
        return replace(targets, noise=torch.where(which[:, None], prior, targets.noise.detach()))

    def _codebook_rows(
        self, targets: LatentTargets, attention_mask: Tensor, kind: Tensor, random: StepRandom
    ) -> tuple[Tensor, Tensor]:
        """Rows (B, D, h, w) of each kind, and the cross-entropy of the first codes sampled after own ones."""
        book, _ = self._fixed
        latent, schedule = self.codes.latent, self.codes.latent.schedule
        own = targets.codes.flatten(1)[:, schedule.order]
        learned = schedule.fine_steps
        first = latent.config.steps - learned + int(float(random.shared(1)) * learned)
        known = {OWN_COARSE_CODES: schedule.codes_of_step(first)[0], FROM_TEXT: 0}
        rows, entropy = book.lookup(targets.codes), targets.text.new_zeros(())
        for number, count in known.items():
            (which,) = torch.nonzero(kind == number, as_tuple=True)
            if not len(which):
                continue
            retrieval = None if targets.retrieval is None else targets.retrieval.select(which)
            given = targets.text[which], attention_mask[which], targets.noise[which]
            with in_full_precision(rows):
                retrieved = latent.retrieve(*given, book, retrieval)
            inputs = self._sampler[0].inputs(*given, retrieved)
            continued = self._sampler[0].continue_codes(inputs, own[which, :count], book, learned)
            rows = rows.index_copy(0, which, continued.vectors)
            if number == OWN_COARSE_CODES and continued.first is not None:
                expected = own[which, slice(*schedule.turns[first][0])].flatten()
                with in_full_precision(rows):
                    raw = continued.first.flatten(0, 1)
                    entropy = code_cross_entropy(raw, expected, book.rows, self.losses)
        return rows, entropy

    def _discriminate(self, generated: Tensor, sentence: Tensor, random: StepRandom) -> Tensor:
        """The generator's loss against the discriminator, which has no gradients here."""
        _, discriminator = self._fixed
        if self.losses.diff_augment:
            generated = diff_augment(generated, random.uniform(len(generated), 4))
        return generator_loss(discriminator(generated, sentence))


class DiscriminatorObjective(nn.Module):
    """Phase 3: real pictures with their captions against generated ones and against other captions."""

    def __init__(self, model: TextToImageModel, losses: LossConfig, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.losses = losses
        self._fixed = (model.text_encoder.words,)

    def forward(self, batch: TrainingBatch, generated: Tensor, random: StepRandom) -> tuple[Tensor, Terms]:
        """Loss and terms; `generated` (B, 3, H, W) are pictures of the captions in `batch`."""
        with torch.no_grad():
            text, _ = self._fixed[0](batch.text_codes, batch.attention_mask)
            sentence = sentence_from_text(text, batch.attention_mask)
        real = batch.pictures
        if self.losses.diff_augment:
            real = diff_augment(real, random.uniform(len(real), 4))
            generated = diff_augment(generated, random.uniform(len(generated), 4))
        real_logits = self.discriminator(real, sentence)
        fake_logits = self.discriminator(generated, sentence)
        mismatched = None
        if self.losses.mismatched_caption > 0:
            mismatched = self.discriminator(real, sentence.roll(1, 0))
        loss = discriminator_loss(real_logits, fake_logits, mismatched, self.losses.mismatched_caption)
        terms = {
            "discriminator": loss,
            "real": real_logits.sigmoid().mean(),
            "fake": fake_logits.sigmoid().mean(),
        }
        return loss, terms
