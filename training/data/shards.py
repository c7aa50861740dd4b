"""Tar shards of captioned pictures in webdataset's layout, read in order.

    shard-000000.tar    000123.jpg, 000123.txt (one caption a line) or 000123.json ({"caption": …}), …

Files of one sample share a name and lie next to each other.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.training.data.picture_files import (
    PICTURE_SUFFIXES,
    Entry,
    caption_from_text,
    require_folder,
)
from textual_vision.training.data.splits import concept_split

MEMBER_BYTES = 64 << 20  # no picture of a training corpus is larger


def find_shards(folder: Path) -> list[Path]:
    """The .tar files of a folder, sorted; UsageError when there are none."""
    require_folder(folder, "shards")
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise UsageError(f"{folder} has no .tar shards", "give the folder with shard-000000.tar, …")
    return shards


def shard_entries(shards: Sequence[Path]) -> Iterator[Entry]:
    """Yield every sample of the shards in order, one at a time; IntegrityError for a damaged tar."""
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
