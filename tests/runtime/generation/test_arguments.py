"""Prompts and seeds of a wrong type get an error that says what to write instead."""

import numpy as np
import pytest

from textual_vision.runtime import TextToImage, UsageError


@pytest.fixture(scope="module")
def model(tiny_files, tmp_path_factory):
    root = tmp_path_factory.mktemp("bundle") / "tiny.tv"
    for name, data in tiny_files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return TextToImage.load(root, backend="onnxruntime")


@pytest.mark.parametrize(
    ("prompt", "message", "hint"),
    [
        (["dog"], "a prompt of type list, not str", "generate(prompts, seeds)"),
        (("dog", "cat"), "a prompt of type tuple", "generate(prompts, seeds)"),
        (b"dog", "a prompt of type bytes", "decode"),
        (None, "the prompt '' is empty", "for example"),
        (7, "a prompt of type int", "for example"),
        ((word for word in ["dog"]), "a prompt of type generator", "for example"),
    ],
)
def test_a_prompt_that_is_no_string_is_refused(model, prompt, message, hint):
    with pytest.raises(UsageError, match=message) as caught:
        model(prompt)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("dog", "one string where a list"),
        (b"dog", "prompts of type bytes"),
        (None, "the prompt '' is empty"),
        (iter(["dog"]), "prompts of type list_iterator"),
        ({"dog"}, "prompts of type set"),
        (["dog", None], "a prompt of type None"),
        (np.array([["dog"]]), "prompts of type ndarray"),
        ([], "0 prompts and 1 seeds"),
    ],
)
def test_prompts_that_are_no_list_of_strings_are_refused(model, prompts, message):
    with pytest.raises(UsageError, match=message):
        model.generate(prompts, [1])


@pytest.mark.parametrize("seed", [1.0, np.float32(1), "1", None, True, np.True_, [1], -1, 2**64])
def test_a_seed_that_is_no_integer_of_64_bits_is_refused(model, seed):
    with pytest.raises(UsageError, match="seed"):
        model("dog", seed=seed)
    with pytest.raises(UsageError, match="seed"):
        model.generate(["dog"], [seed])


@pytest.mark.parametrize("seeds", [7, np.int64(7), (n for n in [1]), None, "12", np.array(3)])
def test_seeds_that_are_no_list_are_refused(model, seeds):
    with pytest.raises(UsageError, match="seed"):
        model.generate(["dog"], seeds)


def test_numpys_integers_strings_and_arrays_are_fine(model):
    expected = model.generate(["dog", "cat"], [1, 2]).images
    found = model.generate(np.array(["dog", "cat"]), np.array([1, 2], np.uint8)).images
    assert np.array_equal(found, expected)
    assert np.array_equal(model(np.str_("dog"), seed=np.uint64(1)), expected[0])
    assert np.array_equal(model.generate(("dog",), range(1, 2)).images[0], expected[0])


@pytest.mark.parametrize("threads", [0, -1, 4000, 1.5, True, "2"])
def test_threads_are_between_one_and_the_number_of_cores(model, threads):
    with pytest.raises(UsageError, match=r"threads on \d+ processor core") as caught:
        TextToImage.load(model.bundle, threads=threads)
    assert "leave it to the backend" in caught.value.hint
