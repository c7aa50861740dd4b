"""Tar shards are streamed in an order that is fixed, shared out without doubles, and resumable."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.training.data.picture_files import DamageLog
from textual_vision.training.data.shards import Position, ShardStream, find_shards, shard_entries

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


def keys(stream: ShardStream, count: int) -> list[str]:
    return [sample.key for sample in itertools.islice(stream, count)]


def all_keys(shards: list[Path]) -> list[str]:
    return [entry.key for entry in shard_entries(shards)]


def test_text_and_json_captions_are_read(shards: list[Path]) -> None:
    found = list(shard_entries(shards[:1]))
    assert [entry.captions for entry in found[:2]] == [("red",), ("one red", "another red")]
    assert found[0].key == "shard-000000.tar/0000"


def test_an_epoch_gives_every_sample_once_in_another_order(shards: list[Path]) -> None:
    stream = ShardStream(shards, 8, buffer=5)
    epochs = keys(stream, 2 * SHARDS * SAMPLES)
    first, second = epochs[: SHARDS * SAMPLES], epochs[SHARDS * SAMPLES :]
    assert sorted(first) == sorted(second) == sorted(all_keys(shards))
    assert first != second
    assert first != all_keys(shards)
    assert stream.position == Position(epoch=1, drawn=SHARDS * SAMPLES)


def test_the_order_is_a_function_of_the_seed(shards: list[Path]) -> None:
    orders = [keys(ShardStream(shards, 8, seed=seed), 20) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("readers", [2, 3, 6])
def test_readers_share_every_epoch_without_doubles(shards: list[Path], readers: int) -> None:
    for epoch in range(2):
        position = Position(epoch=epoch)
        found: list[str] = []
        for reader in range(readers):
            stream = ShardStream(shards, 8, reader=reader, readers=readers, buffer=4, position=position)
            found += keys(stream, SHARDS // readers * SAMPLES)
        assert sorted(found) == sorted(all_keys(shards))


@pytest.mark.parametrize("stop", [1, 6, SAMPLES * SHARDS - 1, SAMPLES * SHARDS, SAMPLES * SHARDS + 5])
def test_a_stream_goes_on_where_it_was(shards: list[Path], stop: int) -> None:
    whole = keys(ShardStream(shards, 8, buffer=5), stop + 20)
    first = ShardStream(shards, 8, buffer=5)
    begun = keys(first, stop)
    rest = ShardStream(shards, 8, buffer=5, position=first.position)
    assert begun + keys(rest, 20) == whole


def test_damaged_samples_are_skipped_and_do_not_move_the_position(shards: list[Path]) -> None:
    with tarfile.open(shards[0], "a") as archive:
        add(archive, "x.png", b"no picture")
        add(archive, "x.txt", b"something")
        add(archive, "y.txt", b"a caption alone")
    damage = DamageLog(max_share=0.5)
    stream = ShardStream(shards, 8, buffer=5, damage=damage)
    found = keys(stream, SHARDS * SAMPLES + 1)
    assert len(set(found)) == SHARDS * SAMPLES
    assert {name for name, _ in damage.names} == {"shard-000000.tar/x", "shard-000000.tar/y"}


def test_one_split_can_be_had_alone(shards: list[Path]) -> None:
    splits = {entry.key: entry.split for entry in shard_entries(shards)}
    trained = [key for key, split in splits.items() if split == "train"]
    assert sorted(keys(ShardStream(shards, 8, split="train"), len(trained))) == sorted(trained)
    assert 0 < len(trained) < len(splits)


def test_fewer_shards_than_readers_is_refused(shards: list[Path]) -> None:
    with pytest.raises(UsageError, match="6 shards cannot be shared by 7 readers"):
        ShardStream(shards, 8, readers=7)


def test_a_shard_cut_short_is_named(shards: list[Path]) -> None:
    shards[2].write_bytes(shards[2].read_bytes()[:700])
    with pytest.raises(IntegrityError, match=shards[2].name):
        list(shard_entries(shards))


def test_shards_without_any_picture_end_in_an_error_not_in_an_endless_loop(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(UsageError, match="no captioned picture"):
        next(iter(ShardStream(find_shards(tmp_path), 8)))


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no \.tar shards"):
        find_shards(tmp_path)
