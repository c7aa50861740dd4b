"""Tensors of a request into pictures to generate, and what of them is refused."""

import numpy as np
import pytest

from textual_vision.runtime import TextToImage
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.triton.requests import (
    Picture,
    groups_by_parameters,
    pictures_from_tensors,
    tensors_from_images,
)
from textual_vision.runtime.triton.spec import ServingSpec, StageModel, bytes_from_serving, serving_from_bytes

SPEC = ServingSpec(
    schema_version=1,
    precision="fp32",
    backend=None,
    largest_count=16,
    stage_models={"latent": StageModel(model="x_latent", backend="onnxruntime", dtypes={"codes": "int64"})},
)


def given(prompts=("dog",), seeds=(7,), **numbers):
    tensors = {
        "prompt": np.array([[one.encode()] for one in prompts], np.object_),
        "seed": np.array([[one] for one in seeds], np.uint64),
    }
    for name, values in numbers.items():
        dtype = np.int32 if name == "count" else np.float32
        tensors[name] = np.array([[one] for one in values], dtype)
    return tensors


def test_a_row_is_a_picture():
    (found,) = pictures_from_tensors(given(["hund 🐕"], [2**64 - 1]), 16)
    assert found == Picture(prompt="hund 🐕", seed=2**64 - 1, parameters=())


def test_a_count_continues_the_seeds_of_its_row():
    found = pictures_from_tensors(given(["dog", "cat"], [7, 1], count=[2, 1], scale=[3.0, 4.0]), 16)
    assert [(one.prompt, one.seed, dict(one.parameters)) for one in found] == [
        ("dog", 7, {"scale": 3.0}),
        ("dog", 8, {"scale": 3.0}),
        ("cat", 1, {"scale": 4.0}),
    ]
    assert list(groups_by_parameters(found).values()) == [[0, 1], [2]]


def test_a_model_without_prompt_needs_seeds_alone():
    assert pictures_from_tensors({"seed": np.array([[3]], np.uint64)}, 16)[0].prompt == ""


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (given(count=[0]), "a count of 0 pictures"),
        (given(count=[17]), "a count of 17 pictures"),
        (given(count=[-(2**31)]), "a count of -2147483648"),
        (given(seeds=[2**64 - 1], count=[2]), "seed 18446744073709551616 is not between"),
        (given(["dog", "cat"], [1]), "1 seeds, and"),
        ({**given(), "prompt": np.array([[b"a\xff"]], np.object_)}, "the prompt is not UTF-8: byte 1"),
        (given([], []), "0 seeds"),
    ],
)
def test_what_cannot_be_generated_is_refused(tensors, words):
    with pytest.raises(UsageError, match=words):
        pictures_from_tensors(tensors, 16)


@pytest.mark.filterwarnings("ignore::textual_vision.runtime.errors.PromptWarning")
def test_a_response_says_which_words_are_unknown(tiny_bundle):
    with TextToImage.load(tiny_bundle, backend="onnxruntime") as model:
        made = model.generate(["dog", "zebra"], [1, 2])
    tensors = tensors_from_images(made.pictures, 12)
    np.testing.assert_array_equal(tensors["image"], made.images)
    np.testing.assert_array_equal(tensors["codes"], made.codes)
    assert tensors["warnings"].shape == (2, 1)
    assert tensors["warnings"][0, 0] == b""
    assert b"not in the vocabulary: 'zebra'" in tensors["warnings"][1, 0]
    assert set(tensors_from_images(made.pictures, None)) == {"image", "codes"}


def test_the_settings_of_a_version_are_read_as_they_were_written():
    assert serving_from_bytes(bytes_from_serving(SPEC)) == SPEC


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"schema_version": 1', b'"schema_version": 2', "reads version 1, found 2"),
        (b'"fp32"', b"32", "serving.json.precision"),
        (b"{", b"[", "not valid JSON"),
    ],
)
def test_settings_of_another_kind_are_refused(old, new, words):
    with pytest.raises(IntegrityError, match=words):
        serving_from_bytes(bytes_from_serving(SPEC).replace(old, new, 1))
