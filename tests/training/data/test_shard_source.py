"""Tar shards train without being unpacked, and damage in them is named and stepped over."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trained import assert_trained

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.training.checkpoint import load_checkpoint
from textual_vision.training.config import TrainConfig
from textual_vision.training.data.batches import PictureSource
from textual_vision.training.data.shard_source import ShardPictures
from textual_vision.training.data.shards import find_shards
from textual_vision.training.data.splits import SPLITS, TRAIN
from textual_vision.training.sources import open_source
from textual_vision.training.trainer.trainer import run

SIZE = 16


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path, shapes: PictureSource) -> Path:
    """Four shards of twelve samples, captions as text in two and as JSON in the others."""
    for shard in range(4):
        with tarfile.open(tmp_path / f"shard-{shard:06}.tar", "w") as archive:
            for index in range(12 * (shard % 2), 12 * (shard % 2) + 12):
                add(archive, f"{index:04}.png", png(shapes.picture(index)))
                captions = list(shapes.captions(index))
                if shard < 2:
                    add(archive, f"{index:04}.txt", "\n".join(captions).encode())
                else:
                    add(archive, f"{index:04}.json", json.dumps({"captions": captions}).encode())
    return tmp_path


def opened(folder: Path, said: list[str] | None = None) -> ShardPictures:
    return ShardPictures(find_shards(folder), SPLITS, SIZE, [].append if said is None else said.append)


def test_every_sample_is_read_from_where_it_lies(folder: Path, shapes: PictureSource) -> None:
    source = opened(folder)
    assert len(source) == 48
    for index in (0, 11, 13, 30, 47):
        assert np.array_equal(source.picture(index), shapes.picture(index % 24))
        assert source.captions(index) == shapes.captions(index % 24)


def test_splits_share_out_the_samples(folder: Path) -> None:
    shards = find_shards(folder)
    train = ShardPictures(shards, (TRAIN,), SIZE, print)
    held = ShardPictures(shards, tuple(s for s in SPLITS if s != TRAIN), SIZE, print)
    assert len(train) + len(held) == 48
    assert not {tuple(row) for row in train.places.tolist()} & {tuple(row) for row in held.places.tolist()}


def test_a_damaged_picture_is_named_once_and_the_next_takes_its_place_with_its_captions(
    folder: Path, shapes: PictureSource
) -> None:
    places = opened(folder).places
    with (folder / "shard-000000.tar").open("r+b") as shard:
        shard.seek(int(places[3, 1]))
        shard.write(b"no picture at all")
    said: list[str] = []
    source = opened(folder, said)
    for _ in range(2):
        assert np.array_equal(source.picture(3), shapes.picture(4))
        assert source.captions(3) == shapes.captions(4)
    assert len(said) == 1
    assert "shard-000000.tar at byte" in said[0]


def test_too_much_damage_stops(folder: Path) -> None:
    places = opened(folder).places
    with (folder / "shard-000000.tar").open("r+b") as shard:
        for place in places[:12]:
            shard.seek(int(place[1]))
            shard.write(b"no picture at all")
    source = opened(folder)
    with pytest.raises(IntegrityError, match="are damaged, more than 5%"):
        for index in range(len(source)):
            source.picture(index)


def test_a_tar_that_is_none_and_shards_without_captions_are_told(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    (tmp_path / "a.tar").write_bytes(b"x" * 2000)
    with pytest.raises(IntegrityError, match=r"a\.tar is damaged"):
        opened(tmp_path)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "a.png", b"")
    assert len(opened(tmp_path)) == 0
    config = replace(tiny_config, corpus="shards")
    with pytest.raises(UsageError, match="has no picture of the splits train"):
        open_source(config, tmp_path, ("train",))


def test_a_run_trains_from_shards(folder: Path, tiny_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(tiny_config, corpus="shards")
    source = open_source(config, folder, (TRAIN,))
    folder = tmp_path / "run"
    out = run(config, source.source, source.notice, folder, resume=False, on_progress=lambda line: None)
    assert_trained(folder, steps=4)
    assert all(weight.isfinite().all() for weight in load_checkpoint(str(out)).model.state_dict().values())
