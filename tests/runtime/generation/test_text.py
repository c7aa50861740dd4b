"""Encoded text: in batches, remembered, and used by the model that made it."""

import dataclasses
import tracemalloc
import warnings

import numpy as np
import pytest

from textual_vision.runtime import PromptWarning, TextToImage, UsageError
from textual_vision.runtime.generation import text as text_module
from textual_vision.runtime.generation.conditions import Condition
from textual_vision.runtime.generation.text import TextCache, warn_caller


@pytest.fixture
def model(tiny_bundle):
    return TextToImage.load(tiny_bundle, backend="onnxruntime")


@pytest.fixture
def runs(model, monkeypatch):
    """The name of each stage that runs, and its number of rows."""
    found = []
    run = model._run

    def noted(stage, tensors):
        found.append((stage.name, len(next(iter(tensors.values())))))
        return run(stage, tensors)

    monkeypatch.setattr(model, "_run", noted)
    return found


def test_prompts_are_encoded_in_batches_of_the_profile(model, runs):
    drawn = model.generate(["dog"] * 5 + ["a cat wearing sunglasses"], list(range(6)))
    assert [rows for name, rows in runs if name == "text_encoder"] == [4, 2]
    assert np.array_equal(drawn.images[5], model("a cat wearing sunglasses", seed=5))


def test_a_long_prompt_pads_only_its_own_batch(model):
    text = model.encode_text(["dog"] * 4 + ["a dog, a cat, a river"])
    assert [batch["input_ids"].shape for batch in text.batches] == [(4, 3), (1, 10)]


def test_text_is_encoded_as_pictures_are_reached(model, runs):
    stream = model.stream([f"dog {'a ' * n}" for n in range(8)], [1])
    next(stream)
    assert [name for name, _ in runs] == ["text_encoder", "latent", "generator"]
    list(stream)
    assert len(runs) == 6


def test_many_prompts_take_little_memory(model):
    words = ["dog", "cat", "forest", "river", "a", "with", "green", "wearing"]
    prompts = [f"{a} {b} {c} {d}" for a in words for b in words for c in words for d in words][:500]
    tracemalloc.start()
    assert sum(1 for _ in model.stream(prompts, [3])) == 500
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 8 << 20


def test_a_prompt_that_comes_again_is_not_encoded_again(model, runs):
    first, second = model("dog", seed=1), model("dog", seed=1)
    assert np.array_equal(first, second)
    assert [name for name, _ in runs] == ["text_encoder", "latent", "generator", "latent", "generator"]


def test_without_a_cache_it_is_encoded_again(tiny_bundle):
    model = TextToImage.load(tiny_bundle, text_cache=0)
    assert np.array_equal(model("dog"), model("dog"))
    assert not model._cache._known


def condition(*ids):
    return Condition(texts=("",), tensors={"input_ids": np.array([ids])}, notes=())


def test_the_cache_keeps_the_latest_within_its_limits(monkeypatch):
    encoded = []

    def encode(given):
        encoded.append(given.tensors["input_ids"].tolist())
        return {"text": np.zeros(100, np.int64)}

    cache = TextCache(2)
    for number in (1, 2, 1, 3, 1, 2):
        cache.encoded(condition(number), encode)
    assert encoded == [[[1]], [[2]], [[3]], [[2]]]
    monkeypatch.setattr(text_module, "CACHE_LIMIT_BYTES", 1000)
    cache.encoded(condition(4), encode)
    assert cache._bytes == 800
    monkeypatch.setattr(text_module, "CACHE_LIMIT_BYTES", 700)
    cache.encoded(condition(5), encode)
    assert cache._bytes <= 800
    cache.clear()
    assert (len(cache._known), cache._bytes) == (0, 0)


def test_text_of_another_bundle_or_precision_is_refused(model, edit_manifest):
    text = model.encode_text(["dog"])
    with pytest.raises(UsageError, match=r"encoded by the bundle [0-9a-f]{12}… in int8") as caught:
        model.generate(dataclasses.replace(text, source=(text.source[0], "int8")), [1])
    assert "the model that generates" in caught.value.hint
    other = TextToImage.load(edit_manifest(lambda manifest: manifest.update(name="other")))
    with pytest.raises(UsageError, match="encoded by the bundle"):
        other.generate(text, [1])
    assert np.array_equal(model.generate(text, [1]).images[0], model("dog", seed=1))


def test_notes_come_with_the_pictures(model):
    with pytest.warns(PromptWarning):
        drawn = model.generate(["dog", "森 cat"], [1, 2])
    assert [note.unknown for note in drawn.notes] == [(), ("森",)]
    with pytest.warns(PromptWarning):
        (picture,) = model.stream(["dog " * 20], [1])
    assert picture.note.words_cut == 10


def test_a_warning_points_to_the_line_that_called_and_is_not_remembered(model):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for number in range(50):
            model(f"x{number} dog")
    assert len(found) == 50
    assert {one.filename for one in found} == {__file__}
    assert not any("x7" in str(key) for key in vars(text_module).get("__warningregistry__", {}))
    assert not any("x7" in str(key) for key in globals().get("__warningregistry__", {}))


def test_a_filter_can_make_an_error_of_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", PromptWarning)
        with pytest.raises(PromptWarning, match="odd"):
            warn_caller("odd", PromptWarning)
