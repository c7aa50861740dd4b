"""PNG files: what C writes Pillow reads, and the other way round."""

import io
import random
import zlib

import numpy as np
import pytest
from PIL import Image

from textual_vision.runtime.images.png import png_from_image

SIZES = [(1, 1), (1, 300), (7, 5), (64, 64), (200, 100)]


def pictures(height, width):
    rng = np.random.default_rng(height * width)
    noisy = rng.integers(0, 256, (height, width, 3), np.uint8)
    smooth = np.add.outer(np.arange(height), np.arange(width))[..., None] * np.array([1, 2, 3])
    return [np.zeros((height, width, 3), np.uint8), noisy, smooth.astype(np.uint8), noisy // 64 * 64]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_what_c_writes_pillow_reads(driver, tmp_path, height, width):
    for index, picture in enumerate(pictures(height, width)):
        path = tmp_path / f"{index}.png"
        assert driver.lines("write-png", height, width, path, records=[picture.tobytes()]) == [["0"]]
        with Image.open(path) as image:
            image.verify()
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), picture)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "2.png", "3.png"]


def test_a_smooth_picture_is_packed(plain_driver, tmp_path):
    picture = pictures(200, 100)[2]
    plain_driver.ask("write-png", 200, 100, tmp_path / "x.png", records=[picture.tobytes()])
    assert (tmp_path / "x.png").stat().st_size < picture.nbytes / 10


def test_a_folder_that_is_not_there_is_an_error_that_leaves_nothing(driver, tmp_path):
    (answer,) = driver.lines("write-png", 1, 1, tmp_path / "no" / "x.png", records=[b"abc"])
    assert answer[0] == "1"
    assert "No such file" in answer[1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_what_pillow_writes_c_reads(driver, height, width):
    made = pictures(height, width)
    records = [png_from_image(picture) for picture in made]
    for picture in made:
        for level in (0, 1, 9):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, format="PNG", compress_level=level)
            records.append(buffer.getvalue())
    answers = driver.lines("pngs", height, width, records=records)
    expected = [picture.tobytes().hex() for picture in made]
    expected += [picture.tobytes().hex() for picture in made for _ in range(3)]
    assert answers == [["0", pixels] for pixels in expected]


def png_of(mode, size=(5, 7)):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "I;16"])
def test_a_picture_of_another_kind_is_refused(driver, mode):
    (answer,) = driver.lines("pngs", 7, 5, records=[png_of(mode)])
    assert answer == ["7", "not an RGB PNG of eight bits"]


def test_a_picture_of_another_size_is_refused(driver):
    (answer,) = driver.lines("pngs", 7, 5, records=[png_of("RGB", (7, 5))])
    assert answer == ["7", "of another size than the model's pictures"]


@pytest.mark.parametrize("count", [1500, pytest.param(30_000, marks=pytest.mark.slow)])
def test_damaged_pictures_are_read_or_refused(sanitized_driver, count):
    """With checksums that fit, so that the damage reaches what is behind them."""
    rng = random.Random(0)
    sources = [png_from_image(picture) for picture in pictures(7, 5)]
    records = []
    for _ in range(count):
        data = bytearray(rng.choice(sources))
        for _ in range(rng.choice((1, 1, 2, 5))):
            data[rng.randrange(8, len(data))] = rng.randrange(256)
        records.append(
            with_checksums(bytes(data[: rng.choice((len(data), len(data), rng.randrange(len(data))))]))
        )
    answers = sanitized_driver.lines("pngs", 7, 5, records=records)
    assert len(answers) == count
    assert {answer[0] for answer in answers} == {"0", "7"}


def with_checksums(data):
    out, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if size > len(data) - place - 12:
            break
        body = data[place + 4 : place + 8 + size]
        out += data[place : place + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        place += 12 + size
    return bytes(out + data[place:])
