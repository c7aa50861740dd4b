"""Tar shards of captioned pictures, streamed: webdataset's layout, memory flat in the corpus's size.

    shard-000000.tar    000123.jpg, 000123.txt (captions a line) or 000123.json ({"caption": …}), …

Files of one sample share a name and lie next to each other. Every process and worker reads shards of
its own; a shuffle buffer of undecoded bytes mixes neighbors; the order is a function of (seed, epoch)
alone, so a position is two numbers.
"""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.training.data.picture_files import (
    PICTURE_SUFFIXES,
    DamageLog,
    Entry,
    Sample,
    caption_from_text,
    require_folder,
    samples,
)
from textual_vision.training.data.splits import concept_split

MEMBER_BYTES = 64 << 20  # no picture of a training corpus is larger
SHUFFLE_BUFFER = 1000


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a stream has come: `drawn` entries of `epoch` were handed out or skipped as damaged."""

    epoch: int = 0
    drawn: int = 0


def find_shards(folder: Path) -> list[Path]:
    """The .tar files of a folder, sorted. UsageError when there are none."""
    require_folder(folder, "shards")
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise UsageError(f"{folder} holds no .tar shards", "name the folder that holds shard-000000.tar, …")
    return shards


def shard_entries(shards: Sequence[Path]) -> Iterator[Entry]:
    """Every sample of the shards in order; memory holds one sample. IntegrityError on a damaged tar."""
    for shard in shards:
        key, group = "", dict[str, bytes]()
        for name, suffix, data in _members(shard):
            if name != key and group:
                yield _entry(shard, key, group)
                group = {}
            key = name
            group[suffix] = data
        if group:
            yield _entry(shard, key, group)


def _members(shard: Path) -> Iterator[tuple[str, str, bytes]]:
    try:
        with tarfile.open(shard, "r|*") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, file = member.name.rpartition("/")
                stem, dot, suffix = file.partition(".")
                if not stem or member.size > MEMBER_BYTES:
                    continue
                stream = archive.extractfile(member)
                assert stream is not None  # isfile() said so
                data = stream.read()
                if len(data) != member.size:
                    raise tarfile.ReadError(f"{member.name} is cut short")
                yield f"{folder}/{stem}" if folder else stem, f"{dot}{suffix}".lower(), data
    except (tarfile.TarError, EOFError) as error:
        raise IntegrityError(f"{shard} is damaged: {error}", "fetch or write this shard again") from error


def _entry(shard: Path, key: str, group: dict[str, bytes]) -> Entry:
    name = f"{shard.name}/{key}"
    picture = next((data for suffix, data in group.items() if suffix in PICTURE_SUFFIXES), None)
    if picture is None:
        return Entry(key=name, captions=(), damage=f"no picture among {sorted(group)}")
    try:
        captions = captions_from_files(group)
    except ValueError as error:
        return Entry(key=name, captions=(), damage=f"caption: {error}")
    return Entry(key=name, captions=captions, data=picture, split=concept_split(name))


def captions_from_files(group: dict[str, bytes]) -> tuple[str, ...]:
    """The captions of one sample, from its files by suffix; ValueError when they can't be read."""
    texts: list[object] = []
    if ".txt" in group:
        texts = list(group[".txt"].decode("utf-8").splitlines())
    elif ".json" in group:
        table = json.loads(group[".json"].decode("utf-8"))
        found = table.get("captions", table.get("caption", "")) if isinstance(table, dict) else table
        texts = found if isinstance(found, list) else [found]
    return tuple(filter(None, map(caption_from_text, texts)))


class ShardStream:
    """Endless samples of the shards that fall to one reader of `readers`, shuffled anew every epoch.

    Readers are all workers of all processes: reader = process * workers + worker. Together they give
    each sample exactly once an epoch. `position` may be saved at any time; a stream made with it goes
    on with the sample that would have come next.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        size: int,
        *,
        reader: int = 0,
        readers: int = 1,
        seed: int = 0,
        buffer: int = SHUFFLE_BUFFER,
        split: str = "",
        position: Position | None = None,
        damage: DamageLog | None = None,
    ) -> None:
        """`split`: only entries of it, "" for all. UsageError when there are fewer shards than readers."""
        if len(shards) < readers:
            raise UsageError(
                f"{len(shards)} shards cannot be shared by {readers} readers",
                "write more and smaller shards, or use fewer processes or workers",
            )
        self._shards = sorted(shards)
        self._size, self._reader, self._readers = size, reader, readers
        self._seed, self._buffer, self._split = seed, max(1, buffer), split
        self.position = position or Position()
        self.damage = damage or DamageLog()

    def __iter__(self) -> Iterator[Sample]:
        while True:
            before = self.position
            yield from self._rest_of_epoch(before)
            if before.drawn == 0 and self.position.drawn == 0:
                raise UsageError(
                    f"the shards hold no {self._split or 'captioned'} picture for reader {self._reader}",
                    "name other shards or another split",
                )
            self.position = Position(epoch=before.epoch + 1)

    def shards_of_epoch(self, epoch: int) -> list[Path]:
        """This reader's shards in the order it reads them: all readers shuffle alike, then share out."""
        order = list(self._shards)
        random.Random(f"{self._seed}/{epoch}/shards").shuffle(order)
        return order[self._reader :: self._readers]

    def _rest_of_epoch(self, start: Position) -> Iterator[Sample]:
        entries = self._shuffled(start.epoch)
        for drawn, entry in enumerate(entries, 1):
            if drawn <= start.drawn:  # read again but not decoded: the buffer must fill as it did before
                continue
            self.position = Position(epoch=start.epoch, drawn=drawn)
            for _, picture in samples([entry], self._size, self.damage):
                yield Sample(picture=picture, captions=entry.captions, style="", key=entry.key)

    def _shuffled(self, epoch: int) -> Iterator[Entry]:
        chance = random.Random(f"{self._seed}/{epoch}/{self._reader}/{self._readers}/buffer")
        waiting: list[Entry] = []
        for entry in shard_entries(self.shards_of_epoch(epoch)):
            if self._split and entry.split and entry.split != self._split:
                continue
            waiting.append(entry)
            if len(waiting) >= self._buffer:
                place = chance.randrange(len(waiting))
                waiting[place], waiting[-1] = waiting[-1], waiting[place]
                yield waiting.pop()
        chance.shuffle(waiting)
        yield from waiting
