"""Models of one bundle share their sessions; a batch's size can be fixed, so that no picture has company."""

import gc
import os

import numpy as np
import pytest

from textual_vision.runtime import TextToImage, UsageError
from textual_vision.runtime.backends import stages


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_two_models_of_one_bundle_share_their_sessions_until_both_are_closed(tiny_bundle, backend):
    first, second = (TextToImage.load(tiny_bundle, backend=backend) for _ in range(2))
    assert first.sessions is second.sessions
    first.close()
    assert second("dog").shape == (8, 8, 3)
    second.close()
    gc.collect()
    assert not stages._SHARED


def test_other_options_or_another_bundle_share_nothing(tiny_bundle, edit_manifest):
    first, second = TextToImage.load(tiny_bundle), TextToImage.load(tiny_bundle, threads=1)
    third = TextToImage.load(edit_manifest(lambda manifest: manifest.update(name="other")))
    assert len({id(model.sessions) for model in (first, second, third)}) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_opens_its_own_sessions(tiny_bundle):
    model = TextToImage.load(tiny_bundle)
    child = os.fork()
    if child == 0:
        os._exit(0 if TextToImage.load(tiny_bundle).sessions is not model.sessions else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_with_a_batch_size_of_1_every_picture_is_computed_alone(tiny_bundle, monkeypatch):
    model = TextToImage.load(tiny_bundle, batch_size=1)
    rows = []
    run = model._run
    monkeypatch.setattr(model, "_run", lambda stage, given: rows.append(_rows(given)) or run(stage, given))
    drawn = model.generate(["dog", "a cat wearing sunglasses"], [1, 2])
    assert set(rows) == {1}
    assert np.array_equal(drawn.images[0], model("dog", seed=1))


def _rows(tensors):
    return len(next(iter(tensors.values())))


@pytest.mark.parametrize("size", [0, 5, True, "2"])
def test_a_batch_size_outside_the_profile_is_refused(tiny_bundle, size):
    with pytest.raises(UsageError, match="batch size"):
        TextToImage.load(tiny_bundle, batch_size=size)
