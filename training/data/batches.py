"""Batches as a pure function of (seed, step), so that a resumed run continues with the next step.

All random numbers of a step are generated for the whole batch and then sliced by process. So one process and
several have the same pictures, captions and noise, and no sample twice in an epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Captions -> text_codes int64 (B, T, G), attention_mask int64 (B, T), padded to the longest.
EncodeCaptions = Callable[[Sequence[str]], tuple[Tensor, Tensor]]


class PictureSource(Protocol):
    """Captioned pictures by number; `weight` is the number of times that one occurs in an epoch."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> NDArray[np.uint8]:
        """(S, S, 3) uint8."""

    def captions(self, index: int) -> Sequence[str]:
        """At least one caption, the plainest first."""

    def style(self, index: int) -> str:
        """The name of the art style; may be empty."""

    def weight(self, index: int) -> int:
        """Return how often the picture is drawn, relative to the others."""

    def is_composition(self, index: int) -> bool:
        """Whether the picture shows several things that its caption names."""

    def same_concept(self, index: int) -> Sequence[int]:
        """Numbers of the pictures of the same composition, with its own; empty for a single thing."""


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """One process's share of a step."""

    pictures: Tensor  # float32 (B, 3, S, S) in [-1, 1]
    text_codes: Tensor  # int64 (B, T, G)
    attention_mask: Tensor  # int64 (B, T)
    style_named: Tensor  # bool (B,): the caption names the art style
    captions: list[str]
    indices: list[int]  # of the pictures in the source
    same_concept: list[Sequence[int]]  # of each; see `PictureSource.same_concept`
    corpus: int  # number of pictures in the source


class StepRandom:
    """The random numbers of one step, the same for any number of processes."""

    def __init__(self, seed: int, phase: str, step: int, rank: int = 0, world: int = 1) -> None:
        digest = hashlib.sha256(f"{seed}/{phase}/{step}".encode()).digest()
        self.generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        self.rank, self.world = rank, world

    def normal(self, count: int, *shape: int) -> Tensor:
        """Standard normals (count, *shape) for this process's `count` samples."""
        return self._share(torch.randn((count * self.world, *shape), generator=self.generator))

    def uniform(self, count: int, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (count, *shape), for this process's `count` samples."""
        return self._share(torch.rand((count * self.world, *shape), generator=self.generator))

    def shared(self, count: int) -> Tensor:
        """Uniform numbers in [0, 1), (count,), the same for all processes."""
        return torch.rand(count, generator=self.generator)

    def _share(self, whole: Tensor) -> Tensor:
        count = len(whole) // self.world
        return whole[self.rank * count : (self.rank + 1) * count]


class Batches:
    """Batches of a source, a function of the seed, the phase and the step."""

    def __init__(
        self,
        source: PictureSource,
        encode: EncodeCaptions,
        *,
        seed: int,
        style_in_caption: float,
    ) -> None:
        self.source = source
        self.encode = encode
        self.seed = seed
        self.style_in_caption = style_in_caption
        counts = [source.weight(index) for index in range(len(source))]
        self.pool = np.repeat(np.arange(len(source)), counts)
        self._orders: dict[int, NDArray[np.int64]] = {}

    def batch(self, phase: str, step: int, size: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        """The share of `rank` in step `step` of `phase`: `size` samples of the `size * world`."""
        whole = self._indices(phase, step * size * world, size * world)
        chance = StepRandom(self.seed, phase + "/captions", step, rank, world).uniform(size, 2)
        return self._batch_of(whole[rank * size : (rank + 1) * size], chance.tolist())

    def plainest(self, indices: list[int], *, style: bool) -> TrainingBatch:
        """A batch of these pictures with their first captions, with the style or without."""
        return self._batch_of(indices, [[0.0, -1.0 if style else 1.0]] * len(indices))

    def _batch_of(self, indices: list[int], chance: list[list[float]]) -> TrainingBatch:
        # Before the captions: a source may replace a damaged picture by another one with other captions.
        pictures = np.stack([self.source.picture(i) for i in indices])
        captions, told = [], []
        for index, (pick, style_chance) in zip(indices, chance, strict=True):
            choices = self.source.captions(index)
            style = self.source.style(index) if style_chance < self.style_in_caption else ""
            captions.append(caption_with_style(choices[int(pick * len(choices))], style))
            told.append(bool(style))
        codes, mask = self.encode(captions)
        return TrainingBatch(
            pictures=signed_from_pixels(pictures),
            text_codes=codes,
            attention_mask=mask,
            style_named=torch.tensor(told),
            captions=captions,
            indices=indices,
            same_concept=[self.source.same_concept(index) for index in indices],
            corpus=len(self.source),
        )

    def _indices(self, phase: str, start: int, count: int) -> list[int]:
        """Pictures at positions start to start + count of the endless sequence of shuffled epochs."""
        places = np.arange(start, start + count)
        epochs, offsets = places // len(self.pool), places % len(self.pool)
        orders = {int(epoch): self._order(phase, int(epoch)) for epoch in np.unique(epochs)}
        return [int(orders[int(e)][o]) for e, o in zip(epochs, offsets, strict=True)]

    def _order(self, phase: str, epoch: int) -> NDArray[np.int64]:
        digest = hashlib.sha256(f"{self.seed}/{phase}/order/{epoch}".encode()).digest()
        key = int.from_bytes(digest[:8], "little")
        if key not in self._orders:
            if len(self._orders) > 2:
                self._orders.clear()
            self._orders[key] = np.random.Generator(np.random.Philox(key)).permutation(self.pool)
        return self._orders[key]


def caption_with_style(caption: str, style: str) -> str:
    """'dog face', 'noto' -> 'dog face, noto style'."""
    return f"{caption}, {style} style" if style else caption


def signed_from_pixels(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) in [-1, 1]."""
    signed = torch.from_numpy(pictures).to(torch.float32) / 127.5 - 1.0
    return signed.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
