"""Pictures of any kind become squares of one size; damage is named, counted and limited."""

from __future__ import annotations

import csv
import io
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from textual_vision.runtime.errors import IntegrityError, TextualVisionError, UsageError
from textual_vision.training.cli.main import command
from textual_vision.training.data.captioned_corpus import build_captioned_corpus
from textual_vision.training.data.coco import coco_entries
from textual_vision.training.data.corpus import load_corpus, npy_header
from textual_vision.training.data.folder import folder_entries
from textual_vision.training.data.picture_files import (
    DamageLog,
    Entry,
    caption_from_text,
    picture_from_bytes,
    samples,
)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def plain(mode: str, size: tuple[int, int] = (40, 20), color: Any = 128) -> Image.Image:
    return Image.new(mode, size, color)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    picture = picture_from_bytes(file_of(plain(mode, color=0)), 8)
    assert (picture.shape, picture.dtype) == ((8, 8, 3), np.uint8)


def test_sixteen_bit_gray_keeps_its_brightness() -> None:
    assert (picture_from_bytes(file_of(plain("I;16", color=128 * 256)), 8) == 128).all()


def test_print_colors_are_converted() -> None:
    assert picture_from_bytes(file_of(plain("CMYK", color=(0, 0, 0, 0)), "JPEG"), 8).min() > 250


def test_transparent_parts_lie_on_white() -> None:
    assert (picture_from_bytes(file_of(plain("RGBA", color=(9, 9, 9, 0))), 8) == 255).all()


def test_the_middle_square_is_kept_and_averaged() -> None:
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8:2] = 200
    picture = picture_from_bytes(file_of(Image.fromarray(wide)), 2)
    assert (picture == 100).all()


def test_pictures_are_turned_as_their_camera_was() -> None:
    tall = np.zeros((8, 8, 3), np.uint8)
    tall[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture = picture_from_bytes(file_of(Image.fromarray(tall), "PNG", exif=exif), 2)
    assert (picture[0] == 0).all() and (picture[1] == 255).all()


@given(st.binary(max_size=400))
def test_bytes_that_are_no_picture_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        picture_from_bytes(b"\x89PNG\r\n\x1a\n" + data, 8)


def test_a_picture_cut_short_is_a_value_error() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8).astype(np.uint8))
    with pytest.raises(ValueError, match="truncated"):
        picture_from_bytes(file_of(noise, "JPEG")[:900], 8)


def test_captions_are_one_clean_line() -> None:
    assert caption_from_text("  a dog\n\ton\x00 grass ") == "a dog on grass"
    assert caption_from_text("un café 犬") == "un café 犬"
    assert caption_from_text(None) == caption_from_text(" \n") == ""


def entries(good: int, bad: int) -> list[Entry]:
    data = file_of(plain("RGB"))
    sound = [Entry(key=f"good-{n}", captions=("a",), data=data) for n in range(good)]
    return sound + [Entry(key=f"bad-{n}", captions=("a",), data=b"?") for n in range(bad)]


def test_damaged_pictures_are_named_counted_and_skipped() -> None:
    said: list[str] = []
    damage = DamageLog(report=lambda name, reason: said.append(name))
    found = [entry.key for entry, _ in samples([*entries(58, 2), *entries(1, 0)], 8, damage, threads=2)]
    assert len(found) == 59
    assert said == ["bad-0", "bad-1"]
    assert (damage.seen, damage.damaged) == (61, 2)


def test_too_many_damaged_pictures_stop_the_reading() -> None:
    with pytest.raises(IntegrityError, match="2 of 21 pictures are damaged, more than 5%"):
        list(samples(entries(19, 5), 8, DamageLog()))
    assert len(list(samples(entries(19, 5), 8, DamageLog(max_share=0.5)))) == 19


def test_an_entry_without_caption_counts_as_damaged() -> None:
    damage = DamageLog()
    assert list(samples([Entry(key="x", captions=(), data=file_of(plain("L")))], 8, damage)) == []
    assert damage.names == [("x", "it has no caption")]


def test_the_header_is_the_one_that_numpy_reads() -> None:
    for count in (0, 7, 123_456_789):
        header = npy_header(count, 4096)
        assert len(header) == 128
        stream = io.BytesIO(header)
        assert np.lib.format.read_magic(stream) == (1, 0)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        assert (shape, fortran, dtype) == ((count, 4096, 4096, 3), False, np.uint8)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """COCO's layout: a color, a gray and a second-split picture, and one without captions."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for name, modes in (("train2017", ("RGB", "L", "RGB")), ("val2017", ("RGB",))):
        (root / name).mkdir()
        images, annotations = [], []
        for number, mode in enumerate(modes):
            file_name = f"{number:012}.jpg"
            plain(mode, (33 + number, 20), "gray").save(root / name / file_name)
            images.append({"id": number, "file_name": file_name, "license": 4})
            if number < 2:
                annotations += [
                    {"id": 10 * number + n, "image_id": number, "caption": f"Picture {number}, {n}.\n"}
                    for n in range(5)
                ]
        licenses = [{"id": 4, "name": "Attribution License"}]
        table = {"images": images, "annotations": annotations, "licenses": licenses}
        (root / "annotations" / f"captions_{name}.json").write_text(json.dumps(table))
    return root


def corpus_of(tmp_path: Path, found: Any, **options: Any) -> Any:
    damage = DamageLog(max_share=0.5)
    build_captioned_corpus(tmp_path / "out", found, size=16, source="test", damage=damage, **options)
    return load_corpus(tmp_path / "out")


def test_coco_is_read_with_all_its_captions(coco: Path, tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, coco_entries(coco))
    assert corpus.pictures.shape == (3, 16, 16, 3)
    assert abs(corpus.pictures.astype(int) - 128).max() < 3
    first = corpus.records[0]
    assert (first.key, first.split) == ("train2017/000000000000.jpg", "train")
    assert first.captions == tuple(f"Picture 0, {n}." for n in range(5))
    assert first.license == "Attribution License"
    assert corpus.records[2].split == "test"
    assert corpus.summary["damaged_names"] == {"train2017/000000000002.jpg": "it has no caption"}


def test_coco_never_reads_outside_its_folder(coco: Path) -> None:
    file = coco / "annotations" / "captions_val2017.json"
    table = json.loads(file.read_text())
    table["images"][0]["file_name"] = "../train2017/000000000000.jpg"
    file.write_text(json.dumps(table))
    assert list(coco_entries(coco))[-1].damage == "the image has no plain file name"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": []}', '{"images": [], "annotations": [1]}'])
def test_damaged_annotations_are_named(coco: Path, text: str) -> None:
    (coco / "annotations" / "captions_train2017.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"captions_train2017\.json is damaged"):
        list(coco_entries(coco))


def test_another_layout_than_cocos_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        list(coco_entries(tmp_path))
    assert "annotations/captions_train2017.json" in caught.value.hint


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "more/c.png"):
        plain("RGB").save(folder / name)
    return folder


def test_captions_may_lie_beside_their_pictures(pictures: Path, tmp_path: Path) -> None:
    (pictures / "a.txt").write_text("a dog\n\na brown dog\n")
    (pictures / "b.txt").write_bytes(b"\xff\xfe")
    (pictures / "more" / "c.txt").write_text("a cat")
    corpus = corpus_of(tmp_path, folder_entries(pictures))
    assert {record.key: record.captions for record in corpus.records} == {
        "a.png": ("a dog", "a brown dog"),
        "more/c.png": ("a cat",),
    }
    assert list(corpus.summary["damaged_names"]) == ["b.jpg"]


def write_csv(folder: Path) -> None:
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["file", "caption"], ["a.png", "a dog, brown"], ["a.png", "dog"], ["more/c.png", "cat"]]
        )


def write_jsonl(folder: Path) -> None:
    rows = [
        {"file_name": "a.png", "caption": ["a dog, brown", "dog"]},
        {"image": "more/c.png", "text": "cat"},
    ]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")


@pytest.mark.parametrize("write", [write_csv, write_jsonl])
def test_captions_may_lie_in_one_table(pictures: Path, write: Callable[[Path], None]) -> None:
    write(pictures)
    found = {entry.key: entry.captions for entry in folder_entries(pictures)}
    assert found == {"a.png": ("a dog, brown", "dog"), "more/c.png": ("cat",)}


def test_a_table_never_leads_out_of_its_folder(pictures: Path) -> None:
    rows = [{"file": "../secret.png", "caption": "x"}, {"file": "/etc/x.png", "caption": "x"}]
    (pictures / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert {entry.damage for entry in folder_entries(pictures)} == {"the path leads out of the folder"}


@pytest.mark.parametrize(
    ("name", "text"), [("captions.csv", "a,b\n1,2\n"), ("captions.jsonl", "{"), ("captions.jsonl", "[1]")]
)
def test_a_damaged_table_is_named(pictures: Path, name: str, text: str) -> None:
    (pictures / name).write_text(text)
    with pytest.raises(IntegrityError, match=name):
        list(folder_entries(pictures))


def test_a_folder_without_pictures_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no captioned picture"):
        list(folder_entries(tmp_path))


def test_the_command_writes_a_corpus_and_names_what_it_skipped(pictures: Path, tmp_path: Path) -> None:
    write_csv(pictures)
    (pictures / "more" / "c.png").write_bytes(b"no picture")
    arguments = ["data", "--format", "folder", "--input", str(pictures), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(command, [*arguments, "--size", "16", "--max-damaged", "0.5", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["pictures"] == 1
    assert "skipped more/c.png" in result.stderr
    assert len(load_corpus(tmp_path / "out").records) == 1


def test_a_disk_that_fills_up_leaves_nothing(pictures: Path, tmp_path: Path) -> None:
    write_csv(pictures)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # bytes a file may have
    try:
        with pytest.raises(OSError, match="File too large"):
            corpus_of(tmp_path, folder_entries(pictures))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "coco"],
        ["--input", "somewhere"],
        ["--format", "folder", "--input", "somewhere", "--skin-tones"],
        ["--format", "shards", "--input", "nowhere"],
    ],
)
def test_the_command_refuses_what_makes_no_sense(arguments: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["data", "--output", str(tmp_path / "out"), *arguments])
    assert isinstance(result.exception, TextualVisionError)
    assert result.exception.hint
    assert not (tmp_path / "out").exists()
