"""An explanation says which word changes which part of the picture, and which codes."""

import numpy as np
import pytest

from textual_vision.runtime import TextToImage, UsageError
from textual_vision.runtime.images.png import texts_of_png


@pytest.fixture(params=[False, True], ids=["here", "isolated"])
def model(request, tiny_bundle):
    with TextToImage.load(tiny_bundle, backend="onnxruntime", isolated=request.param) as model:
        yield model


def test_each_word_has_the_region_that_differs_without_it(model):
    found = model.explain("dogs wearing sunglasses", seed=4)
    assert found.words == ("dogs", "wearing", "sunglasses")
    assert found.tokens == ("[CLS]", "dog", "##s", "wearing", "sunglasses", "[SEP]")
    assert np.array_equal(found.image, model("dogs wearing sunglasses", seed=4))
    without = model("dogs sunglasses", seed=4).astype(float)
    assert np.allclose(found.influence[1], np.abs(without - found.image).mean(-1) / 255)
    codes = model.generate(["dogs sunglasses"], [4]).codes[0]
    assert np.array_equal(found.changed_codes[1], codes != found.codes)
    assert found.weights.shape == (6,)


def test_the_only_word_of_a_prompt_can_be_left_out(model):
    found = model.explain("dog", seed=1)
    assert found.influence.shape == (1, 8, 8)


def test_what_is_no_prompt_is_refused(model):
    with pytest.raises(UsageError):
        model.explain(["dog"])


def test_a_picture_tells_where_it_comes_from(model, tmp_path):
    (picture,) = model.generate(["a dog"], [7]).pictures
    picture.save(tmp_path / "dog.png")
    told = texts_of_png((tmp_path / "dog.png").read_bytes())
    assert told == {"prompt": "a dog", "seed": "7", "bundle": model.bundle.digest, "precision": "fp32"}
    assert np.array_equal(np.asarray(picture.pil()), picture.image)
