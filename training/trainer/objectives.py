"""What each phase minimizes: modules whose forward takes a batch and gives a loss and its terms.

They are modules so that one wrapper (accelerate's) spreads any of them over processes. They hold the
model's parts, not copies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.config import LossConfig
from textual_vision.training.data.batches import StepRandom, TrainingBatch
from textual_vision.training.models.efficientnet import Perceptual
from textual_vision.training.models.image_encoder import sample
from textual_vision.training.models.latent.retrieval import RetrievalTraining, entries_of
from textual_vision.training.models.text_encoder import sentence_from_text
from textual_vision.training.models.text_to_image import TextToImageModel
from textual_vision.training.trainer.losses import (
    code_cross_entropy,
    diff_augment,
    discriminator_loss,
    feature_distance,
    generator_loss,
    kl_divergence,
    r1_penalty,
)

Terms = dict[str, Tensor]
AGREEMENT_EVERY = 16  # cells, of those whose codes are compared for the log
MASK_SIMILAR_SHARE = 0.3  # of the pictures, which learn without the drafts that are most like them
MASK_CONCEPT_SHARE = 0.6  # of the compositions, which learn without any picture that puts the same together
INSERT_TARGET_SHARE = 0.5  # of the others, which find themselves among the drafts
SIMILARITY_THRESHOLD = 0.4  # cosine of two captions that have something in common
PRIOR_CODE_SHARE = 0.5  # of the captions that leave nothing open, drawn with noise the picture doesn't know


class PictureDistance(nn.Module):
    """L1 + L2 + perceptual distance, as the weights say."""

    def __init__(self, losses: LossConfig) -> None:
        super().__init__()
        self.losses = losses
        self.perceptual = Perceptual() if losses.perceptual > 0 else None

    def forward(self, drawn: Tensor, real: Tensor) -> Tensor:
        """Two (B, 3, H, W) in [-1, 1] -> scalar."""
        loss = self.losses.l1 * F.l1_loss(drawn, real) + self.losses.l2 * F.mse_loss(drawn, real)
        if self.perceptual is not None:
            loss = loss + self.losses.perceptual * self.perceptual(drawn, real)
        return loss


class CodebookObjective(nn.Module):
    """Phase 1: picture -> codes -> picture. The codebook itself moves by averages, not by gradients."""

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
        """Loss and terms; moves the codebook when training."""
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
        """What the rows (B, D, h, w) of latents (B, h, w, D) draw against the pictures, straight through."""
        real, flat = batch.pictures, latents.permute(0, 3, 1, 2)
        commitment = F.mse_loss(flat, rows) * flat.shape[1]
        text, _ = self.words(batch.text_codes, batch.attention_mask)
        noise = random.normal(len(real), self.noise_width).to(real.device)
        drawn = self.generator(flat + (rows - flat).detach(), text, batch.attention_mask, noise)
        drawn = drawn.float()
        picture = self.distance(drawn, real)
        terms = {"picture": picture, "commitment": commitment, "psnr": psnr(drawn, real)}
        return picture + self.losses.commitment * commitment, terms


class EncoderObjective(nn.Module):
    """Phase 3: the image encoder goes on choosing, of the codes that there are, those that draw its picture.

    The codebook stays: its rows are what the latent network was trained on.
    """

    def __init__(self, whole: CodebookObjective) -> None:
        super().__init__()
        self.image_encoder = whole.image_encoder
        self._whole = (whole,)  # a tuple: not trained here

    def forward(self, batch: TrainingBatch, random: StepRandom) -> tuple[Tensor, Terms]:
        """Loss and terms."""
        (whole,) = self._whole
        latents = self.image_encoder(batch.pictures).float()
        with in_full_precision(latents):
            rows = whole.codebook.lookup(whole.codebook.nearest(latents))
        return whole.reconstruction(latents, rows, batch, random)


@dataclass(frozen=True, kw_only=True)
class LatentTargets:
    """Inputs and targets of the latent network for one batch."""

    codes: Tensor  # int64 (B, h, w): the pictures' own
    text: Tensor  # (B, T, C)
    noise: Tensor  # (B, Z)
    retrieval: RetrievalTraining | None


class LatentObjective(nn.Module):
    """Phase 2: words and noise -> codes of the picture, the noise from a posterior over it."""

    def __init__(self, model: TextToImageModel, losses: LossConfig) -> None:
        super().__init__()
        self.latent = model.latent
        self.posterior = model.posterior
        self.losses = losses
        # A tuple: not trained here, not ours. The words stay what the memory was filled by.
        self._fixed = (model.image_encoder, model.codebook, model.text_encoder.words)

    def forward(self, batch: TrainingBatch, random: StepRandom) -> tuple[Tensor, Terms]:
        """Loss and terms."""
        loss, terms, _ = self.predict(batch, random, self.latent.config.steps)
        return loss, terms

    def predict(
        self, batch: TrainingBatch, random: StepRandom, steps: int
    ) -> tuple[Tensor, Terms, LatentTargets]:
        """Loss of the first `steps`, each counting the same, terms, and what they were taken of."""
        encoder, book, words = self._fixed
        with torch.no_grad(), in_full_precision(batch.pictures):
            codes = book.nearest(encoder(batch.pictures))
        with torch.no_grad():
            text, _ = words(batch.text_codes, batch.attention_mask)
        noise, kl = self._sample_noise(batch, random)
        wanted = codes.flatten(1)[:, self.latent.order]
        retrieval = self._retrieval_augmentation(batch, codes, random)
        with in_full_precision(noise):  # scores that fall nearly together would be rounded to other pictures
            drafts = self.latent.drafts(text.float(), batch.attention_mask, noise.float(), book, retrieval)
        context = self.latent.context(self._drop_text(text, random), batch.attention_mask, noise, drafts)
        corrupted = self._corrupt_tokens(wanted, random)[:, : self.latent.positions(steps - 1)[1]]
        raw = self.latent(context, F.embedding(corrupted, book.rows)).float()
        entropy, right = codes.new_zeros((), dtype=torch.float32), []
        with in_full_precision(raw):
            for step in range(steps):
                chosen = slice(*self.latent.positions(step))
                # A raw latent's length is its certainty: a unit one could not be surer than `logit_scale`.
                found, new = raw[:, chosen].flatten(0, 1), wanted[:, chosen].flatten()
                entropy = entropy + code_cross_entropy(found, new, book.rows, self.losses) / steps
                some = slice(None, None, AGREEMENT_EVERY)
                right.append((book.nearest(found.detach()[some]) == new[some]).float().mean())
        terms = {"code_cross_entropy": entropy, "kl": kl, "code_agreement": torch.stack(right).mean()}
        loss = self.losses.code_cross_entropy * entropy + self.losses.kl * kl
        return loss, terms, LatentTargets(codes=codes, text=text, noise=noise, retrieval=retrieval)

    def _retrieval_augmentation(
        self, batch: TrainingBatch, codes: Tensor, random: StepRandom
    ) -> RetrievalTraining | None:
        """What pictures are learned with: not their own entries, which nothing else would be like.

        Of a share of them whatever has a caption much like theirs is hidden, too, for a prompt may be like
        nothing that is remembered; of a share of the compositions, whatever puts the same together, so that
        others are put together for them. In another share the picture takes the place of one of the drafts,
        more often of a near one: so a draft can be right as a whole, and a drawing learns to hold on to one.
        """
        memory = self.latent.memory
        if memory is None:
            return None
        device = memory.keys.device
        kept = entries_of(batch.corpus, len(memory.keys)).to(device)
        rows, places = torch.nonzero(torch.tensor(batch.indices, device=device)[:, None] == kept).unbind(1)
        hidden = torch.zeros(len(batch.indices), len(memory.keys), dtype=torch.bool, device=device)
        hidden[rows, places] = True
        strange = random.uniform(len(hidden)).to(device) < MASK_SIMILAR_SHARE
        # From any reconstruction on: the nearest that is left may be a twin's cousin or a stranger.
        bound = SIMILARITY_THRESHOLD + (1 - SIMILARITY_THRESHOLD) * random.uniform(len(hidden), 1).to(device)
        alike = memory.like(places) > bound[rows]
        hidden = hidden.index_put((rows,), hidden[rows] | (alike & strange[rows, None]))
        numbers = [torch.tensor(one, dtype=torch.int64, device=device) for one in batch.same_concept]
        same_concept = torch.stack([torch.isin(kept, one) for one in numbers])
        apart = (same_concept.sum(1) > 1) & (random.uniform(len(hidden)).to(device) < MASK_CONCEPT_SHARE)
        hidden[:, : len(kept)] |= same_concept & apart[:, None]
        chance = random.uniform(len(hidden), 2).to(device)
        place = (memory.drafts * chance[:, 0].square()).long()
        place = place.where((chance[:, 1] < INSERT_TARGET_SHARE) & ~strange & ~apart, memory.drafts)
        return RetrievalTraining(hidden=hidden, own=codes.flatten(1), place=place)

    def _corrupt_tokens(self, codes: Tensor, random: StepRandom) -> Tensor:
        """Codes (B, N), a share of them replaced by others of the same picture."""
        chance = random.uniform(len(codes), 2, codes.shape[1]).to(codes.device)
        elsewhere = codes.gather(1, (chance[:, 0] * codes.shape[1]).long())
        return torch.where(chance[:, 1] < self.losses.code_noise, elsewhere, codes)

    def _drop_text(self, text: Tensor, random: StepRandom) -> Tensor:
        """Nothing instead of the words of some captions: what there is besides words is learned too."""
        kept = random.uniform(len(text)).to(text.device) >= self.losses.words_dropped
        return text * kept[:, None, None]

    def _sample_noise(self, batch: TrainingBatch, random: StepRandom) -> tuple[Tensor, Tensor]:
        """The posterior's, or the prior's for a share of the captions that tell everything."""
        device = batch.pictures.device
        mean, log_variance = self.posterior(batch.pictures)
        normal = random.normal(*mean.shape).to(device)
        blind = random.uniform(len(mean)).to(device) < PRIOR_CODE_SHARE
        blind = (blind & batch.style_named.to(device))[:, None]
        noise = torch.where(blind, normal, sample(mean, log_variance, normal))
        return noise, kl_divergence(mean, log_variance)


class JointObjective(nn.Module):
    """Phase 3, the drawing side: what is drawn from own codes, from some of them and from words alone.

    A third of the pictures is drawn from all of its own codes, a third from those of the coarse steps with
    the rest chosen; both are held to what the picture shows. The last third is drawn from its words and only
    has to convince the discriminator, for it may rightly show another drawing of the same words. Held to
    the picture as well it would become the mean of all such drawings.
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

    def forward(
        self, batch: TrainingBatch, random: StepRandom, adversarial: float
    ) -> tuple[Tensor, Terms, Tensor]:
        """Loss, terms and the drawn pictures (B, 3, H, W), detached."""
        # The coarse steps learn what they did; the fine ones by what is drawn with them, and as they did.
        latent = self.codes.latent
        coarse = max(1, latent.config.steps - latent.fine_steps)
        loss, terms, targets = self.codes.predict(batch, random, coarse)
        kind = torch.arange(len(batch.pictures), device=targets.codes.device) % 3
        targets = self._predict_from_text(targets, kind == 2, random)
        rows, entropy = self._rows(targets, batch.attention_mask, kind, random)
        drawn = self.generator(rows, targets.text, batch.attention_mask, targets.noise).float()
        own, partly = kind == 0, kind == 1
        alike = self.distance(drawn[own], batch.pictures[own])
        picture = self.losses.reconstruction * alike + self.distance(drawn[partly], batch.pictures[partly])
        terms |= {"fine_cross_entropy": entropy, "picture": picture}
        terms["psnr"] = psnr(drawn[own], batch.pictures[own])
        loss = loss + picture + self.losses.fine_cross_entropy * entropy
        if adversarial > 0:
            sentence = sentence_from_text(targets.text, batch.attention_mask).detach()
            # Not those from all of their own codes: they are for reconstruction, which convincing would cost.
            chosen = ~own
            words, among = sentence[chosen], partly[chosen]
            judged = self._discriminate(drawn[chosen], batch.pictures[chosen], words, among, random)
            terms |= judged
            fooled, matching = judged["fooled"], judged.get("feature_matching", 0.0)
            loss = loss + adversarial * (fooled + self.losses.feature_matching * matching)
        return loss, terms, drawn.detach()

    def _predict_from_text(self, targets: LatentTargets, which: Tensor, random: StepRandom) -> LatentTargets:
        """With noise that knows nothing of the pictures of `which`; none of it is learned here."""
        blind = random.normal(*targets.noise.shape).to(targets.noise.device)
        return replace(targets, noise=torch.where(which[:, None], blind, targets.noise.detach()))

    def _rows(
        self, targets: LatentTargets, attention_mask: Tensor, kind: Tensor, random: StepRandom
    ) -> tuple[Tensor, Tensor]:
        """Rows (B, D, h, w) of each kind, and the cross-entropy of the first codes chosen after own ones."""
        book, _ = self._fixed
        latent = self.codes.latent
        own = targets.codes.flatten(1)[:, latent.order]
        steps = latent.config.steps
        learned = latent.fine_steps
        first = steps - learned + int(float(random.shared(1)) * learned)
        known = {1: latent.positions(first)[0], 2: 0}
        rows, entropy = book.lookup(targets.codes), targets.text.new_zeros(())
        for number, count in known.items():
            (which,) = torch.nonzero(kind == number, as_tuple=True)
            if not len(which):
                continue
            retrieval = None if targets.retrieval is None else targets.retrieval.of(which)
            given = targets.text[which], attention_mask[which], targets.noise[which]
            with in_full_precision(rows):
                drafts = latent.drafts(*given, book, retrieval)
            setting = latent.setting(*given, drafts)
            plan = latent.plan_through(setting, own[which, :count], book, learned)
            rows = rows.index_copy(0, which, plan.rows)
            if number == 1 and plan.first is not None:
                wanted = own[which, slice(*latent.turns[first][0])]
                with in_full_precision(rows):
                    raw = plan.first.flatten(0, 1)
                    entropy = code_cross_entropy(raw, wanted.flatten(), book.rows, self.losses)
        return rows, entropy

    def _discriminate(
        self, drawn: Tensor, real: Tensor, sentence: Tensor, held: Tensor, random: StepRandom
    ) -> Terms:
        """How far the discriminator is fooled, and for `held` pictures how far its features are theirs."""
        _, discriminator = self._fixed
        if self.losses.diff_augment:
            chance = random.uniform(len(drawn), 4)
            drawn, real = diff_augment(drawn, chance), diff_augment(real, chance)
        logits, features = discriminator(drawn, sentence)
        terms = {"fooled": generator_loss(logits)}
        if self.losses.feature_matching > 0:
            with torch.no_grad():
                _, real_features = discriminator(real[held], sentence[held])
            terms["feature_matching"] = feature_distance([f[held] for f in features], real_features)
        return terms


class DiscriminatorObjective(nn.Module):
    """Phase 3, the other side: real with its words, real with others' words, drawn."""

    def __init__(self, model: TextToImageModel, losses: LossConfig, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.losses = losses
        self._fixed = (model.text_encoder.words,)

    def forward(
        self, batch: TrainingBatch, drawn: Tensor, random: StepRandom, penalize: bool
    ) -> tuple[Tensor, Terms]:
        """Loss and terms; `penalize` adds R1, weighted for being lazy (Karras et al. 2020)."""
        with torch.no_grad():
            text, _ = self._fixed[0](batch.text_codes, batch.attention_mask)
            sentence = sentence_from_text(text, batch.attention_mask)
        real = batch.pictures
        if self.losses.diff_augment:
            real = diff_augment(real, random.uniform(len(real), 4))
            drawn = diff_augment(drawn, random.uniform(len(drawn), 4))
        if penalize:
            real = real.detach().requires_grad_(True)
        real_logits, _ = self.discriminator(real, sentence)
        fake_logits, _ = self.discriminator(drawn, sentence)
        mismatched = None
        if self.losses.mismatch > 0:
            mismatched, _ = self.discriminator(real.detach(), sentence.roll(1, 0))
        loss = discriminator_loss(real_logits, fake_logits, mismatched, self.losses.mismatch)
        terms = {
            "discriminator": loss,
            "real": real_logits.sigmoid().mean(),
            "fake": fake_logits.sigmoid().mean(),
        }
        if penalize:
            penalty = r1_penalty(real_logits, real)
            terms["r1"] = penalty
            loss = loss + self.losses.gradient_penalty * self.losses.gradient_penalty_every * penalty
        return loss, terms


def in_full_precision(x: Tensor) -> torch.autocast:
    """Where codes are chosen: half precision would choose others, and the book would follow them."""
    return torch.autocast(x.device.type, enabled=False)


def psnr(drawn: Tensor, real: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, the peak being the whole range [-1, 1]; mean over pictures."""
    error = (drawn.detach() - real).square().flatten(1).mean(1).clamp_min(1e-10)
    return (10 * torch.log10(4.0 / error)).mean()
