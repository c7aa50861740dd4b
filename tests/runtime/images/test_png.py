"""PNG by zlib alone: what Pillow reads of it, and what is read of Pillow's."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from textual_vision.runtime import IntegrityError
from textual_vision.runtime.images.png import image_from_png, png_from_image, texts_of_png

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
SMOOTH = np.add.outer(np.arange(40), np.arange(30))[..., None].repeat(3, 2).astype(np.uint8)


@given(arrays(np.uint8, SHAPES))
def test_pillow_and_the_reader_see_the_pixels_that_were_written(image):
    data = png_from_image(image)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))).reshape(image.shape), image)
    assert np.array_equal(image_from_png(data, "x.png", *image.shape[:2]), image)


@given(arrays(np.uint8, SHAPES))
def test_the_pixels_that_pillow_writes_are_read(image):
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, format="PNG")
    assert np.array_equal(image_from_png(buffer.getvalue(), "x.png", *image.shape[:2]), image)


def test_every_filter_is_read():
    noise = np.random.default_rng(0).integers(0, 40, SMOOTH.shape, np.uint8)
    data = png_from_image(SMOOTH + noise)
    assert np.array_equal(image_from_png(data, "x.png", 40, 30), SMOOTH + noise)


def test_filters_make_a_smooth_picture_small():
    assert len(png_from_image(SMOOTH)) < 300


def test_texts_of_any_language_are_kept():
    texts = {"prompt": "ein Hund 🐶", "seed": "7"}
    data = png_from_image(SMOOTH, texts)
    assert texts_of_png(data) == texts
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.text == texts


def test_damage_is_refused_wherever_it_is():
    data = png_from_image(SMOOTH, {"prompt": "dog"})
    for place in range(len(data)):
        damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(IntegrityError, match=r"^x\.png: "):
            image_from_png(damaged, "x.png", 40, 30)
        with pytest.raises(IntegrityError):
            image_from_png(data[:place], "x.png", 40, 30)


def test_another_size_is_refused_before_its_pixels_take_memory():
    with pytest.raises(IntegrityError, match="30x40 pixels, not 64x64"):
        image_from_png(png_from_image(SMOOTH), "x.png", 64, 64)
