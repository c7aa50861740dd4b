"""A model from load to close: streaming, cancelling, describing, and what cannot be done with it."""

import asyncio
import copy
import gc
import logging
import pickle
import threading
import weakref

import numpy as np
import pytest

import textual_vision.runtime as runtime
from textual_vision.runtime import CancelledError, TextToImage, UsageError

PROMPTS = ["dog", "green forest with river", "a cat wearing sunglasses"]


@pytest.fixture
def model(tiny_bundle):
    return TextToImage.load(tiny_bundle, backend="onnxruntime")


def test_pictures_stream_as_those_of_draw(model):
    drawn = model.generate(PROMPTS, [1, 2, 3])
    for place, picture in enumerate(model.stream(PROMPTS, [1, 2, 3])):
        assert (picture.prompt, picture.seed) == (PROMPTS[place], place + 1)
        assert np.array_equal(picture.image, drawn.images[place])
        assert np.array_equal(picture.codes, drawn.codes[place])


def test_wrong_arguments_are_refused_before_the_first_picture_is_taken(model):
    with pytest.raises(UsageError):
        model.stream(["dog"], [-1])
    with pytest.raises(UsageError):
        model.stream(["dog", " "], [1])


def test_progress_is_told_after_every_batch(model):
    told = []
    model.generate(["dog"], range(10), progress=lambda done, total: told.append((done, total)))
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_a_cancelled_drawing_ends_before_the_next_batch(model):
    cancel = threading.Event()
    stream = model.stream(["dog"], range(100), cancel=cancel)
    next(stream)
    cancel.set()
    with pytest.raises(CancelledError):
        list(stream)
    assert model("dog").shape == (8, 8, 3)


def test_a_cancelled_drawing_ends_before_the_next_stage(model, monkeypatch):
    cancel, ran, run = threading.Event(), [], model._run

    def noted(stage, tensors):
        ran.append(stage.name)
        cancel.set()
        return run(stage, tensors)

    monkeypatch.setattr(model, "_run", noted)
    with pytest.raises(CancelledError):
        model.generate(["dog"], [1], cancel=cancel)
    assert ran == ["text_encoder"]


def test_a_task_of_asyncio_can_be_cancelled(model):
    async def cancelled():
        cancel, begun, loop = threading.Event(), asyncio.Event(), asyncio.get_running_loop()
        work = asyncio.create_task(
            asyncio.to_thread(
                model.generate,
                ["dog"],
                range(1_000_000),
                progress=lambda done, total: loop.call_soon_threadsafe(begun.set),
                cancel=cancel,
            )
        )
        await begun.wait()
        cancel.set()
        with pytest.raises(CancelledError):
            await asyncio.wait_for(work, 30)

    asyncio.run(cancelled())


def test_threads_share_a_model(model):
    expected = [model("dog", seed=seed) for seed in range(8)]
    found = [None] * 8

    def draw(seed):
        found[seed] = model("dog", seed=seed)

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_warming_up_changes_nothing_and_warns_of_nothing(model):
    model.warm_up()
    assert np.array_equal(model("dog", seed=7), model("dog", seed=7))


def test_a_closed_model_says_so_and_keeps_no_session(tiny_bundle):
    with TextToImage.load(tiny_bundle) as model:
        session = weakref.ref(model.sessions["generator"])
        text = model.encode_text(["dog"])
    gc.collect()
    assert session() is None
    for use in (
        lambda: model("dog"),
        lambda: model.generate(text, [1]),
        model.warm_up,
        model.describe,
        lambda: model.encode_text(["dog"]),
    ):
        with pytest.raises(UsageError, match="the model is closed") as caught:
            use()
        assert caught.value.hint == "load it again"
    model.close()


def test_a_stream_of_a_closed_model_ends_with_an_error(model):
    stream = model.stream(["dog"], range(100))
    next(stream)
    model.close()
    with pytest.raises(UsageError, match="closed"):
        list(stream)


def test_a_model_describes_itself(model, tiny_files):
    found = model.describe()
    assert (found.name, found.precision, found.backend) == ("tiny", "fp32", "onnxruntime")
    assert (found.height, found.width, found.max_tokens, found.largest_batch) == (8, 8, 12, 4)
    assert found.providers == dict.fromkeys(
        ("text_encoder", "latent", "generator"), ("CPUExecutionProvider",)
    )
    assert found.files["onnx/fp32/latent.onnx"] == len(tiny_files["onnx/fp32/latent.onnx"])
    assert not found.isolated
    assert found.backend_reason == "it was asked for"
    assert "first" in TextToImage.load(model.bundle).describe().backend_reason


@pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_model_that_is_pickled_or_copied_says_what_to_do(model, act):
    with pytest.raises(UsageError, match="cannot be pickled") as caught:
        act(model)
    assert str(model.bundle.root) in caught.value.hint


def test_nothing_is_logged_to_the_terminal(tiny_bundle, capfd, caplog):
    with caplog.at_level(logging.DEBUG, "textual_vision"):
        TextToImage.load(tiny_bundle)("dog")
    assert "loaded" in caplog.text
    assert capfd.readouterr() == ("", "")


def test_the_package_says_what_it_has():
    assert runtime.__version__.count(".") == 2
    assert set(dir(runtime)) == set(runtime.__all__)
    for name in runtime.__all__:
        assert getattr(runtime, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = runtime.nothing
