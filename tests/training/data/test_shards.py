"""Samples of tar shards are read in order, with their captions and splits."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.training.data.shards import find_shards, shard_entries

SHARDS, SAMPLES = 6, 7


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    stream = io.BytesIO()
    Image.new("RGB", (12, 10), "red").save(stream, "PNG")
    for number in range(SHARDS):
        with tarfile.open(tmp_path / f"shard-{number:06}.tar", "w") as archive:
            for sample in range(SAMPLES):
                add(archive, f"{number}{sample:03}.png", stream.getvalue())
                if sample % 2:
                    add(archive, f"{number}{sample:03}.txt", b"one red\nanother red")
                else:
                    add(archive, f"{number}{sample:03}.json", json.dumps({"caption": "red"}).encode())
    return find_shards(tmp_path)


def all_keys(shards: list[Path]) -> list[str]:
    return [entry.key for entry in shard_entries(shards)]


def test_text_and_json_captions_are_read(shards: list[Path]) -> None:
    found = list(shard_entries(shards[:1]))
    assert [entry.captions for entry in found[:2]] == [("red",), ("one red", "another red")]
    assert found[0].key == "shard-000000.tar/0000"


def test_a_shard_cut_short_is_named(shards: list[Path]) -> None:
    shards[2].write_bytes(shards[2].read_bytes()[:700])
    with pytest.raises(IntegrityError, match=shards[2].name):
        list(shard_entries(shards))


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no \.tar shards"):
        find_shards(tmp_path)


def test_a_sample_without_a_picture_is_a_damaged_entry(shards: list[Path]) -> None:
    with tarfile.open(shards[0], "a") as archive:
        add(archive, "y.txt", b"a caption alone")
    *_, last = shard_entries(shards[:1])
    assert (last.key, last.captions) == ("shard-000000.tar/y", ())
    assert "no picture among ['.txt']" in last.damage


def test_samples_are_shared_out_to_splits(shards: list[Path]) -> None:
    splits = [entry.split for entry in shard_entries(shards)]
    assert 0 < splits.count("train") < len(splits) == SHARDS * SAMPLES
