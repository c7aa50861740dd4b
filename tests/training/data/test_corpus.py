"""The emoji corpus: from packages to pictures with captions, on tiny packages drawn for real."""

from __future__ import annotations

import json
import resource
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.training.data import splits
from textual_vision.training.data.corpus import fresh_corpus, load_corpus
from textual_vision.training.emoji import build as corpus_build
from textual_vision.training.emoji.build import build_corpus
from textual_vision.training.emoji.notice import notice_text
from textual_vision.training.emoji.npm_packages import read_icon_set
from textual_vision.training.emoji.svg import picture_from_svg, svg_from_art

ROOT = Path(__file__).parents[3]
TinyPackages = Any  # made in conftest.py


@pytest.fixture
def build(tiny_packages: TinyPackages, tmp_path: Path) -> Callable[..., Path]:
    def build_it(**options: Any) -> Path:
        out = tmp_path / "corpus"
        options = {"size": 32, "scenes_per_combination": 1, **options}
        build_corpus(out, tiny_packages.folder, art=tiny_packages.art, text=tiny_packages.text, **options)
        return out

    return build_it


def test_a_corpus_has_a_picture_and_exact_captions_for_every_record(build: Callable[..., Path]) -> None:
    corpus = load_corpus(build())
    assert corpus.pictures.shape == (len(corpus.records), 32, 32, 3)
    assert corpus.pictures.dtype == np.uint8
    assert isinstance(corpus.pictures, np.memmap)
    dog = next(record for record in corpus.records if record.key == "1F436/twemoji/1")
    assert dog.captions == ("dog face", "a dog face", "dog", "pet", "puppy", "dog face, pet, puppy")
    assert (dog.style, dog.group, dog.license, dog.split) == ("twemoji", "animals-nature", "MIT", "train")


def test_symbols_unlabeled_icons_and_second_names_are_left_out(build: Callable[..., Path]) -> None:
    keys = [record.key for record in load_corpus(build()).records if record.kind == "emoji"]
    assert sorted(keys) == sorted(set(keys))
    assert len(keys) == 2 * 9  # ten words, one of them a symbol; the alias `dog` is no second dog face
    assert not any(key.startswith(("267B", "1F1E6")) for key in keys)


def test_every_dog_in_sunglasses_is_held_out_and_the_fox_is_not(build: Callable[..., Path]) -> None:
    corpus = load_corpus(build())
    dogs = [record for record in corpus.records if record.concept == "wearing:sunglasses:1F436"]
    assert {record.style for record in dogs} == {"twemoji", "firefox"}
    assert {record.split for record in dogs} == {splits.HELDOUT_COMPOSITION}
    assert dogs[0].captions == (
        "dog wearing sunglasses",
        "a dog wearing sunglasses",
        "a dog with sunglasses",
        "a dog in sunglasses",
        "cool dog in shades",
        "dog with shades",
    )
    others = {record.label for record in corpus.records if record.split == splits.TRAIN}
    assert {"fox wearing sunglasses", "dog wearing a crown", "dog face"} <= others


def test_glasses_and_hats_change_the_picture_where_they_sit(build: Callable[..., Path]) -> None:
    corpus = load_corpus(build())
    picture = {record.key: corpus.pictures[index] for index, record in enumerate(corpus.records)}
    cat = picture["1F431/twemoji/1"].astype(int)
    shaded = picture["wearing:sunglasses:1F431/twemoji"].astype(int)
    changed = np.flatnonzero((cat != shaded).any(axis=(1, 2)))
    assert changed.min() > 32 * 0.3 and changed.max() < 32 * 0.75
    assert (picture["wearing:crown:1F431/twemoji"] != cat).any()


def test_the_corpus_is_the_same_however_many_processes_draw_it(build: Callable[..., Path]) -> None:
    alone = load_corpus(build())
    pictures, records = alone.pictures.copy(), list(alone.records)
    together = load_corpus(build(workers=2))
    assert list(together.records) == records
    np.testing.assert_array_equal(together.pictures, pictures)


def test_skin_tones_come_only_when_asked_for(build: Callable[..., Path]) -> None:
    assert not any(record.tone for record in load_corpus(build()).records)
    toned = [record for record in load_corpus(build(tones=True)).records if record.tone]
    assert {(record.concept, record.label) for record in toned} == {("1F436", "dog face: light skin tone")}
    assert toned[0].captions == ("dog face: light skin tone", "dog face with light skin tone")


def test_a_held_out_thing_is_no_part_of_a_scene(
    build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        splits, "is_heldout_pair", lambda concept, style: (concept, style) == ("1F335", "firefox")
    )
    deserts = [record for record in load_corpus(build()).records if record.concept.startswith("scene:desert")]
    assert {record.style for record in deserts} == {"twemoji"}


def test_an_icon_keeps_its_proportions_and_stands_on_white(tiny_packages: TinyPackages) -> None:
    crown = read_icon_set(tiny_packages.art[0], tiny_packages.folder).icons["crown"]
    wide = picture_from_svg(svg_from_art(replace(crown, width=32)), 32)
    assert wide.shape == (32, 32, 3)
    assert (wide[0] == 255).all() and (wide[:, -1] == 255).all()


def test_a_package_cut_short_is_named(tiny_packages: TinyPackages, build: Callable[..., Path]) -> None:
    tarball = tiny_packages.folder / tiny_packages.art[1].file_name
    tarball.write_bytes(tarball.read_bytes()[:-200])
    with pytest.raises(IntegrityError, match=tarball.name):
        build()


def test_a_package_without_icons_is_named(tiny_packages: TinyPackages, build: Callable[..., Path]) -> None:
    tarball = tiny_packages.folder / tiny_packages.art[0].file_name
    with tarfile.open(tarball, "w:gz"):
        pass
    with pytest.raises(IntegrityError, match=r"lacks package/icons\.json"):
        build()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_build_leaves_nothing_and_keeps_the_old_corpus(
    build: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(done: int, total: int) -> None:
        raise error

    with pytest.raises(error):
        build(progress=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]
    before = load_corpus(build())
    with pytest.raises(error):
        build(progress=fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "packages"]
    assert list(load_corpus(tmp_path / "corpus").records) == list(before.records)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up_leaves_nothing(
    build: Callable[..., Path], tmp_path: Path, workers: int
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # bytes a file may have
    try:
        with pytest.raises(OSError, match="File too large"):
            build(workers=workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]


def test_a_folder_that_is_no_corpus_is_never_replaced(build: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="has files that are not of a corpus"):
        build()
    assert (tmp_path / "corpus" / "thesis.txt").read_text() == "mine"


def test_a_missing_corpus_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_corpus(tmp_path)
    assert "tv-train data" in caught.value.hint


@pytest.mark.parametrize("name", ["pictures.npy", "records.jsonl", "corpus.json"])
def test_a_damaged_corpus_is_refused(build: Callable[..., Path], name: str) -> None:
    file = build() / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(IntegrityError, match=r"damaged|holds"):
        load_corpus(file.parent)


def test_a_corpus_of_another_schema_is_refused(build: Callable[..., Path]) -> None:
    file = build() / "corpus.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 99}))
    with pytest.raises(IntegrityError, match="schema 99, expected 2"):
        load_corpus(file.parent)


def test_the_notice_at_the_top_is_the_one_that_checkpoints_carry() -> None:
    assert (ROOT / "NOTICE").read_text("utf-8") == notice_text()


def test_scene_layouts_make_the_documented_number_of_pictures() -> None:
    from textual_vision.training.emoji.scenes import all_scenes

    assert len(all_scenes()) * corpus_build.SCENE_LAYOUTS == 1920


def test_a_corpus_whose_replacement_fails_half_way_is_still_there(
    build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    rename = Path.rename

    def fail_for_the_fresh_one(path: Path, target: Path) -> Path:
        if target == folder and not path.name == "old":
            raise OSError("the disk went away")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_fresh_one)
    with pytest.raises(OSError, match="the disk went away"), fresh_corpus(folder) as scratch:
        (scratch / "corpus.json").write_text("{}")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(f".{folder.name}")] == []
