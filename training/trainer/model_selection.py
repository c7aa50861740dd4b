"""Selection of the weights of a run by validation pictures, on which no score is reported."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from textual_vision.runtime.progress import ProgressCallback
from textual_vision.training.config import LossConfig
from textual_vision.training.data.batches import (
    PictureSource,
    caption_with_style,
    signed_from_pixels,
)
from textual_vision.training.evaluation.features import EfficientNetFeatures, kid
from textual_vision.training.evaluation.sampling import CHUNK, generate_images, noise_rows
from textual_vision.training.models.caption_encoder import ids_from_captions
from textual_vision.training.models.text_to_image import TextToImageModel
from textual_vision.training.trainer.ema import interpolate_weights
from textual_vision.training.trainer.objectives.losses import code_cross_entropy

MIN_PICTURES, MAX_PICTURES = 64, 512  # validation pictures: fewer are too noisy, more take too long
SCORE_EVERY = 500  # steps of the latent phase


class ValidationScorer:
    """Scores on validation pictures with their first captions and styles; less is better."""

    def __init__(self, model: TextToImageModel, tokenizer: Tokenizer, source: PictureSource) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        count = min(len(source), MAX_PICTURES)
        indices = [int(index) for index in np.linspace(0, len(source) - 1, count)]
        self.pictures = np.stack([source.picture(index) for index in indices])
        self.captions = [caption_with_style(source.captions(i)[0], source.style(i)) for i in indices]
        self._extractor: EfficientNetFeatures | None = None

    @torch.no_grad()
    def code_cross_entropy(self, weights: dict[str, Tensor], losses: LossConfig) -> float:
        """Cross-entropy in nats a code, of codes predicted from the caption and prior noise."""
        self.model.load_state_dict(weights)
        device = next(self.model.parameters()).device
        hard = LossConfig(logit_scale=losses.logit_scale, label_smoothing=0.0)
        rows = self.model.codebook.rows
        total, seeds = 0.0, range(len(self.captions))
        for start in seeds[::CHUNK]:
            part = slice(start, start + CHUNK)
            ids, mask = (x.to(device) for x in ids_from_captions(self.tokenizer, self.captions[part]))
            _, text, _ = self.model.text_encoder(ids, mask)
            pictures = signed_from_pixels(self.pictures[part]).to(device)
            codes = self.model.codebook.nearest(self.model.image_encoder(pictures))
            noise = noise_rows(self.model, seeds, start).to(device)
            retrieved = self.model.latent.retrieve(text, mask, noise, self.model.codebook)
            context = self.model.latent.context(text, mask, noise, retrieved)
            raw = self.model.latent.teacher_forced(context, codes, self.model.codebook)
            mean = code_cross_entropy(raw.flatten(0, 2), codes.flatten(), rows, hard)
            total += len(ids) * float(mean)
        return total / len(self.captions)

    def distance(self, weights: dict[str, Tensor]) -> float:
        """KID of pictures generated from the captions against the real ones."""
        self.model.load_state_dict(weights)
        if self._extractor is None:
            self._extractor = EfficientNetFeatures()
            self._real = self._extractor.extract(self.pictures).pooled
        generated = generate_images(
            self.model, self.tokenizer, self.captions, range(len(self.captions))
        ).pictures
        return kid(self._extractor.extract(generated).pooled, self._real)


@dataclass(frozen=True, kw_only=True)
class SelectedInterpolation:
    """The selected share of the joint phase's change, and the KID of each candidate."""

    share: float
    kid_from_share: dict[float, float]


def select_interpolation(
    scorer: ValidationScorer | None,
    before: dict[str, Tensor],
    after: dict[str, Tensor],
    shares: Sequence[float],
    on_progress: ProgressCallback,
) -> SelectedInterpolation:
    """The share of the way from `before` to `after` with the lowest KID; the last one without a scorer."""
    if scorer is None:
        return SelectedInterpolation(share=shares[-1], kid_from_share={})
    scores = {}
    for share in shares:
        scores[share] = scorer.distance(interpolate_weights(before, after, share))
        on_progress(f"validation: KID {scores[share]:.4f} with {share:.0%} of the joint phase")
    return SelectedInterpolation(share=min(scores, key=scores.__getitem__), kid_from_share=scores)
