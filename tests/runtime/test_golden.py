"""Golden pictures: a bundle tests itself."""

import dataclasses
import json

import numpy as np
import pytest

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.golden import (
    GOLDEN_NAME,
    bytes_from_golden,
    compare,
    golden_from_bytes,
    image_psnr_db,
)
from textual_vision.runtime.images.png import png_from_image
from textual_vision.runtime.pipeline import TextToImage


def test_the_bundle_draws_its_own_golden_pictures(tiny_bundle):
    results = list(compare(TextToImage.load(tiny_bundle, backend="onnxruntime")))
    assert [result.prompt for result in results] == ["dog wearing sunglasses", "green forest with river"]
    assert all(result.passed and result.psnr_db is None for result in results)


def test_golden_json_is_written_as_it_was_read(tiny_files):
    data = tiny_files[GOLDEN_NAME]
    assert bytes_from_golden(golden_from_bytes(data)) == data


def test_other_noise_alone_does_not_pass(tiny_files, replace_file):
    golden = golden_from_bytes(tiny_files[GOLDEN_NAME])
    first, second = golden.pictures
    damaged = dataclasses.replace(
        golden, pictures=(dataclasses.replace(first, noise_bits=second.noise_bits),)
    )
    root = replace_file(GOLDEN_NAME, bytes_from_golden(damaged))
    (result,) = compare(TextToImage.load(root, backend="onnxruntime"))
    assert (result.passed, result.noise_equal, result.code_agreement) == (False, False, 1.0)


def test_another_code_or_picture_does_not_pass(tiny_files, replace_file):
    golden = golden_from_bytes(tiny_files[GOLDEN_NAME])
    first, second = golden.pictures
    other_codes = ((15 - first.codes[0][0], *first.codes[0][1:]), *first.codes[1:])
    pictures = (
        dataclasses.replace(first, codes=other_codes),
        dataclasses.replace(second, picture=first.picture),
    )
    damaged = dataclasses.replace(golden, pictures=pictures)
    root = replace_file(GOLDEN_NAME, bytes_from_golden(damaged))
    results = list(compare(TextToImage.load(root, backend="onnxruntime")))
    assert [result.passed for result in results] == [False, False]
    assert results[0].code_agreement == 15 / 16
    assert results[1].code_agreement == 1.0
    assert results[1].psnr_db < 50


@pytest.mark.parametrize(
    "change",
    [
        lambda golden: golden.update(schema_version=2),
        lambda golden: golden.update(pictures=[]),
        lambda golden: golden["pictures"][0].update(codes=[[1, 2], [3]]),
        lambda golden: golden["pictures"][0].update(codes=[]),
        lambda golden: golden["pictures"][0].update(seed=-1),
        lambda golden: golden["pictures"][0].update(picture="../x.png"),
        lambda golden: golden["pictures"][0].update(codes=[[10**30]]),
        lambda golden: golden["pictures"][0].update(codes=[[1, 2], [3, 4]]),
        lambda golden: golden.update(budgets={}),
        lambda golden: golden.update(extra=1),
    ],
)
def test_a_golden_file_that_makes_no_sense_is_refused(tiny_files, replace_file, change):
    value = json.loads(tiny_files[GOLDEN_NAME])
    change(value)
    model = TextToImage.load(replace_file(GOLDEN_NAME, json.dumps(value).encode()), backend="onnxruntime")
    with pytest.raises(IntegrityError, match="golden"):
        list(compare(model))


@pytest.mark.parametrize("data", [b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_golden_picture_that_is_no_png_is_refused(replace_file, data):
    model = TextToImage.load(replace_file("golden/00.png", data), backend="onnxruntime")
    with pytest.raises(IntegrityError, match=r"golden/00\.png"):
        list(compare(model))


def test_a_golden_picture_of_another_size_is_refused(replace_file):
    png = png_from_image(np.zeros((4, 4, 3), np.uint8))
    model = TextToImage.load(replace_file("golden/00.png", png), backend="onnxruntime")
    with pytest.raises(IntegrityError, match="4x4 pixels, not 8x8"):
        list(compare(model))


def test_a_bundle_without_golden_pictures_says_so(edit_manifest):
    root = edit_manifest(lambda manifest: manifest.update(golden=None))
    with pytest.raises(UsageError, match="no golden pictures"):
        list(compare(TextToImage.load(root, backend="onnxruntime")))


def test_psnr_of_an_error_of_one_is_48_decibels():
    black = np.zeros((4, 4, 3), np.uint8)
    assert image_psnr_db(black, black) == float("inf")
    assert image_psnr_db(black, black + np.uint8(1)) == pytest.approx(48.1308, abs=1e-4)
