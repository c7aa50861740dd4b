"""Tar shards as a source of batches, read in place; memory has only the offsets of each sample.

With random access a batch is a function of (seed, step): a resumed run continues with the next sample, and no
sample occurs twice in an epoch for any number of processes.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.progress import ProgressCallback
from textual_vision.training.data.picture_files import (
    DAMAGE_GRACE,
    PICTURE_SUFFIXES,
    DamageLog,
    picture_from_bytes,
)
from textual_vision.training.data.shards import captions_from_files
from textual_vision.training.data.splits import concept_split

CAPTION_SUFFIXES = (".txt", ".json")
# Columns of the index: shard, picture's offset and bytes, caption's offset, bytes and kind.
COLUMNS = 6


class ShardPictures:
    """Samples of some splits of shards at `size` pixels; see `batches.PictureSource`."""

    def __init__(
        self, shards: Sequence[Path], splits: Sequence[str], size: int, on_progress: ProgressCallback
    ) -> None:
        self.shards, self.size = list(shards), size
        self.damage = DamageLog(report=lambda name, reason: on_progress(f"skipped {name}: {reason}"))
        parts = [_places(number, shard, splits) for number, shard in enumerate(self.shards)]
        self.places = np.concatenate([np.zeros((0, COLUMNS), np.int64), *parts])
        self.replaced: dict[int, int] = {}  # damaged sample -> the one after it

    def __len__(self) -> int:
        return len(self.places)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """(size, size, 3) uint8; a damaged sample is reported once, and replaced by the next one.

        Raise IntegrityError when too many are damaged.
        """
        while True:
            sound = self._sound(index)
            shard, offset, count, *_ = self.places[sound]
            try:
                if not self._captions(sound):
                    raise ValueError("it has no caption")
                picture = picture_from_bytes(self._read(int(shard), int(offset), int(count)), self.size)
            except ValueError as error:
                self.damage.bad(f"{self.shards[shard].name} at byte {offset}", str(error))
                self.replaced[sound] = (sound + 1) % len(self)
                if len(self.replaced) == len(self):
                    raise IntegrityError("every sample of the shards is damaged") from error
                continue
            self.damage.good()
            if self.damage.seen >= DAMAGE_GRACE:
                self.damage.check()
            return picture

    def captions(self, index: int) -> Sequence[str]:
        """Captions of the sample that `picture` returns; none when they are damaged."""
        try:
            return self._captions(self._sound(index))
        except ValueError:
            return ()

    def style(self, index: int) -> str:
        """Empty: shards name no style."""
        return ""

    def is_composition(self, index: int) -> bool:
        """True: a sentence mostly names several things."""
        return True

    def same_concept(self, index: int) -> Sequence[int]:
        """Empty: shards name no concept."""
        return ()

    def weight(self, index: int) -> int:
        """One for each sample."""
        return 1

    def _captions(self, place: int) -> tuple[str, ...]:
        shard, _, _, offset, count, kind = (int(number) for number in self.places[place])
        return captions_from_files({CAPTION_SUFFIXES[kind]: self._read(shard, offset, count)})

    def _sound(self, index: int) -> int:
        while index in self.replaced:
            index = self.replaced[index]
        return index

    def _read(self, shard: int, offset: int, count: int) -> bytes:
        with self.shards[shard].open("rb") as file:
            file.seek(offset)
            return file.read(count)


def _places(number: int, shard: Path, splits: Sequence[str]) -> NDArray[np.int64]:
    """Offsets of the samples of one shard, int64 (N, COLUMNS); IntegrityError when it is not a tar."""
    files: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                folder, _, file = member.name.rpartition("/")
                stem, dot, suffix = file.partition(".")
                if member.isfile() and stem:
                    key = f"{folder}/{stem}" if folder else stem
                    files.setdefault(key, {})[f"{dot}{suffix}".lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError) as error:
        raise IntegrityError(f"{shard} is damaged: {error}", "fetch or write this shard again") from error
    rows = []
    for key, parts in files.items():
        picture = next((place for suffix, place in parts.items() if suffix in PICTURE_SUFFIXES), None)
        caption = next(((k, parts[s]) for k, s in enumerate(CAPTION_SUFFIXES) if s in parts), None)
        if picture and caption and concept_split(f"{shard.name}/{key}") in splits:
            rows.append((number, *picture, *caption[1], caption[0]))
    return np.array(rows, np.int64).reshape(-1, COLUMNS)
