"""Usage of codes, diversity over seeds, and similarity to training pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textual_vision.training.checkpoint import Checkpoint
from textual_vision.training.data.batches import PictureSource, signed_from_pixels
from textual_vision.training.evaluation.sampling import Pictures
from textual_vision.training.evaluation.text_code_usage import text_code_usage
from textual_vision.training.models.caption_encoder import CaptionEncoder
from textual_vision.training.models.codebook import codebook_usage

THUMB = 16  # pixels along a side of the thumbnails that are compared
COPY_DB = 30.0  # two thumbnails above this PSNR show the same picture
CHUNK = 512


def text_codes(checkpoint: Checkpoint, captions: Sequence[str]) -> dict[str, Any]:
    """Usage of the text codes by captions; UsageError when the codes have collapsed."""
    encode = CaptionEncoder(checkpoint.tokenizer, checkpoint.model.text_encoder)
    return asdict(text_code_usage(encode, captions))


@torch.no_grad()
def image_codes(checkpoint: Checkpoint, codes: torch.Tensor) -> dict[str, Any]:
    """Usage and predictability of the codes of pictures, int64 (N, h, w)."""
    size = checkpoint.config.model.image_size
    white = signed_from_pixels(np.full((1, size, size, 3), 255, np.uint8))
    book = checkpoint.model.codebook
    usage = asdict(codebook_usage(book, codes, book.nearest(checkpoint.model.image_encoder(white))[0]))
    return {**usage, "codes": book.config.codebook_size, "pictures": len(codes)}


def spread(features: NDArray[np.float32]) -> float:
    """Mean cosine distance between two of the pictures (N, 1280): 0 when all are the same."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ unit.T
    count = len(unit)
    return float(1 - (cosine.sum() - np.trace(cosine)) / (count * (count - 1)))


class TrainingThumbs:
    """The training pictures at 16 pixels along a side."""

    def __init__(self, source: PictureSource) -> None:
        parts = []
        for start in range(0, len(source), CHUNK):
            stop = min(start + CHUNK, len(source))
            parts.append(_thumbs(np.stack([source.picture(index) for index in range(start, stop)])))
        self.thumbs = np.concatenate(parts)
        self.squares = np.square(self.thumbs).sum(1)

    def nearest_db(self, pictures: Pictures) -> NDArray[np.float64]:
        """PSNR of each picture (N, S, S, 3) to the most similar training picture, at 16 pixels a side."""
        thumbs = _thumbs(pictures)
        distance = self.squares - 2 * thumbs @ self.thumbs.T + np.square(thumbs).sum(1)[:, None]
        error = distance.min(1).astype(np.float64) / thumbs.shape[1]
        ratio: NDArray[np.float64] = -10 * np.log10(np.maximum(error, 1e-5))
        return ratio


def _thumbs(pictures: Pictures) -> NDArray[np.float32]:
    """uint8 (N, S, S, 3) -> float32 in [0, 1] (N, 16 * 16 * 3), each pixel a mean."""
    count, size = pictures.shape[:2]
    factor = max(1, size // THUMB)
    side = size // factor
    mean = pictures[:, : side * factor, : side * factor].reshape(count, side, factor, side, factor, 3)
    thumbs: NDArray[np.float32] = mean.mean((2, 4), dtype=np.float32).reshape(count, -1) / np.float32(255)
    return thumbs


def copying(train: TrainingThumbs, generated: Pictures, real: Pictures) -> dict[str, Any]:
    """Similarity of generated and of real held-out pictures to their nearest training pictures."""
    found = {}
    for name, pictures in (("generated", generated), ("real", real)):
        ratio = train.nearest_db(pictures)
        found[name] = {
            "median_db": round(float(np.median(ratio)), 2),
            "share_above_30_db": round(float((ratio > COPY_DB).mean()), 4),
        }
    return {"thumb_pixels": THUMB, "pictures": len(generated), **found}
