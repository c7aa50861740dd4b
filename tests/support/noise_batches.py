"""Batches of noise for what is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from textual_vision.training.data.batches import TrainingBatch


def batch_of(
    indices: list[int], corpus: int, same_concept: Mapping[int, Sequence[int]] | None = None
) -> TrainingBatch:
    """These of `corpus` pictures, of 16 x 16 pixels with captions of three words of eight codes below 12.

    `same_concept` of some, by their index.
    """
    count = len(indices)
    return TrainingBatch(
        pictures=torch.rand(count, 3, 16, 16) * 2 - 1,
        text_codes=torch.randint(0, 12, (count, 3, 8)),
        attention_mask=torch.ones(count, 3, dtype=torch.int64),
        style_named=torch.ones(count, dtype=torch.bool),
        captions=[""] * count,
        indices=indices,
        same_concept=[(same_concept or {}).get(index, ()) for index in indices],
        corpus=corpus,
    )
