"""A corpus on disk as a source of training batches, whatever its pictures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from textual_vision.runtime.errors import UsageError
from textual_vision.training.data.corpus import Corpus

# Occurrences of a picture in an epoch. The network learns to combine from compositions, which are few: with
# these weights they are four of ten pictures instead of a quarter.
WEIGHT_FROM_KIND: Mapping[str, int] = {"emoji": 1, "wearing": 3, "scene": 2}
SINGLE = "emoji"  # the kind of pictures of one thing


class CorpusSource:
    """Pictures of some splits of a corpus at `size` pixels; see `batches.PictureSource`."""

    def __init__(self, corpus: Corpus, splits: Sequence[str], size: int) -> None:
        if corpus.size % size:
            raise UsageError(
                f"the corpus has {corpus.size} pixels a side, not a multiple of model.image_size {size}",
                f"make it again with `tv-train data --size {size}`, or a multiple",
            )
        self.records = [
            (index, record) for index, record in enumerate(corpus.records) if record.split in splits
        ]
        self._same_concept: dict[str, list[int]] = {}
        for number, (_, record) in enumerate(self.records):
            if record.kind != SINGLE:
                self._same_concept.setdefault(record.concept, []).append(number)
        self.pictures = corpus.pictures
        self.factor = corpus.size // size

    def __len__(self) -> int:
        return len(self.records)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """(size, size, 3) uint8: each pixel the mean of the pixels of the corpus that it covers."""
        whole = self.pictures[self.records[index][0]]
        side, f = whole.shape[0] // self.factor, self.factor
        if f == 1:
            return np.asarray(whole)
        mean = whole.reshape(side, f, side, f, 3).mean((1, 3))
        pixels: NDArray[np.uint8] = np.rint(mean).astype(np.uint8)
        return pixels

    def captions(self, index: int) -> Sequence[str]:
        """Captions of the record, the plainest first."""
        return self.records[index][1].captions

    def style(self, index: int) -> str:
        """The name of the art style."""
        return self.records[index][1].style

    def is_composition(self, index: int) -> bool:
        """True for all kinds but single emoji."""
        return self.records[index][1].kind != SINGLE

    def same_concept(self, index: int) -> Sequence[int]:
        """Numbers of all styles and layouts of a composition; empty for a single emoji."""
        return self._same_concept.get(self.records[index][1].concept, ())

    def weight(self, index: int) -> int:
        """The weight of the kind of picture."""
        return WEIGHT_FROM_KIND.get(self.records[index][1].kind, 1)
