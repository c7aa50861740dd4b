"""Engines at work: the real wrapper over a counting libcudart and a library with each version's surface."""

import dataclasses
import gc

import numpy as np
import pytest
from fake_plans import MAX_BATCH, kind_of
from fake_tensorrt import VERSIONS, fake_library

from textual_vision.runtime.backends.tensorrt.session import EngineRunOptions, open_engines
from textual_vision.runtime.errors import TextualVisionError, UsageError
from textual_vision.runtime.manifest import BatchProfile
from textual_vision.runtime.pipeline import TextToImage


def prompt(batch=2, tokens=5):
    ids = np.arange(batch * tokens, dtype=np.int64).reshape(batch, tokens)
    return {"input_ids": ids, "attention_mask": np.ones((batch, tokens), np.int64)}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("integrated", [0, 1])
def test_every_version_runs_a_stage_and_gives_everything_back(
    version, integrated, engines_in, cuda, counters
):
    counters.integrated = integrated
    before, int_type = counters.live, "INT32" if version == "8.6.1" else "INT64"
    bundle, library = engines_in(version, int_type=int_type), fake_library(version)
    stages = open_engines(bundle, "fp32", kind_of(version), cuda=cuda, trt=library)
    assert list(stages) == ["text_encoder", "latent", "generator"]
    inputs = prompt()
    outputs = stages["text_encoder"].run(inputs)
    assert outputs["text_codes"].dtype == np.int64
    assert np.array_equal(outputs["text_codes"], 2 * inputs["input_ids"])
    assert np.array_equal(outputs["text"], 2 * inputs["input_ids"].astype(np.float32))
    assert library._executions == 1
    stages.close()
    assert counters.live == before


def test_buffers_are_taken_once_and_used_again(engines_in, cuda, counters):
    stages = open_engines(engines_in(), "fp32", "tensorrt", cuda=cuda, trt=fake_library("10.3.0"))
    taken = counters.allocations
    results = [
        stages["text_encoder"].run(prompt(batch, tokens)) for batch, tokens in ((1, 2), (4, 12), (2, 3))
    ]
    assert counters.allocations == taken
    assert [result["text"].shape for result in results] == [(1, 2), (4, 12), (2, 3)]
    assert not np.shares_memory(results[0]["text"], results[1]["text"])
    stages.close()


def test_an_integrated_gpu_copies_nothing_and_a_desktop_gpu_does(engines_in, cuda, counters):
    bundle = engines_in()
    for integrated, copies in ((1, 0), (0, 5)):  # two inputs, three outputs
        counters.integrated, counters.copies, counters.mapped = integrated, 0, 0
        stages = open_engines(bundle, "fp32", "tensorrt", cuda=cuda, trt=fake_library("10.3.0"))
        stages["text_encoder"].run(prompt())
        assert counters.copies == copies
        assert (counters.mapped > 0) == bool(integrated)
        stages.close()


def test_the_stages_share_one_block_to_compute_in(engines_in, cuda, counters):
    library = fake_library("11.4.0.106")
    stages = open_engines(engines_in("11.4.0.106"), "fp32", "tensorrt", cuda=cuda, trt=library)
    assert len({context._scratch for context in library._contexts}) == 1
    assert len(library._contexts) == 3
    stages.close()


def test_what_is_dropped_without_being_closed_is_given_back_too(engines_in, cuda, counters):
    before = counters.live
    stages = open_engines(engines_in(), "fp32", "tensorrt", cuda=cuda, trt=fake_library("10.3.0"))
    assert counters.live > before
    del stages
    gc.collect()
    assert counters.live == before


def test_recorded_graphs_and_what_is_left_of_a_session_are_given_back_with_the_engines(
    engines_in, cuda, counters
):
    before, options = counters.live, EngineRunOptions(cuda_graph=True)
    stages = open_engines(engines_in(), "fp32", "tensorrt", options, cuda=cuda, trt=fake_library("10.3.0"))
    encoder = stages["text_encoder"]
    encoder.run(prompt())
    del stages
    assert counters.live == before
    with pytest.raises(UsageError, match="text_encoder: its engines were closed"):
        encoder.run(prompt())


def test_running_out_of_memory_at_any_allocation_loses_nothing(engines_in, cuda, counters):
    bundle, before, library = engines_in(), counters.live, fake_library("10.3.0")
    counters.allocations = 0
    open_engines(bundle, "fp32", "tensorrt", cuda=cuda, trt=library).close()
    total = counters.allocations
    assert total > 10
    for which in range(1, total + 1):
        counters.allocations, counters.fail_at = 0, which
        with pytest.raises(TextualVisionError) as caught:
            open_engines(bundle, "fp32", "tensorrt", cuda=cuda, trt=library)
        caught = caught.value.message
        assert ("out of GPU memory" in caught and "3 of 8 MB free" in caught) or "Stream" in caught
        assert counters.live == before, f"allocation {which} of {total}"


def test_a_cuda_graph_is_recorded_once_for_each_set_of_shapes_and_then_replayed(engines_in, cuda, counters):
    library, before = fake_library("10.3.0"), counters.live
    options = EngineRunOptions(cuda_graph=True)
    stages = open_engines(engines_in(), "fp32", "tensorrt", options, cuda=cuda, trt=library)
    for _ in range(3):
        stages["text_encoder"].run(prompt(2, 5))
    assert library._executions == 2  # once to run, once to record
    assert counters.launches == 2
    for tokens in range(2, 13):  # more shapes than are kept
        stages["text_encoder"].run(prompt(1, tokens))
    stages.close()
    assert counters.live == before


def test_a_cuda_graph_is_recorded_when_rtx_is_done_compiling(engines_in, cuda, counters):
    library, options = fake_library("rtx-1.7.1.116"), EngineRunOptions(cuda_graph=True)
    bundle = engines_in("rtx-1.7.1.116")
    stages = open_engines(bundle, "fp32", "tensorrt-rtx", options, cuda=cuda, trt=library)
    for capturable, launches in ((False, 0), (True, 0), (True, 1)):
        library._capturable = capturable
        stages["text_encoder"].run(prompt())
        assert counters.launches == launches
    stages.close()


def test_a_batch_beyond_the_profile_is_refused_with_the_numbers(engines_in, cuda):
    stages = open_engines(engines_in(), "fp32", "tensorrt", cuda=cuda, trt=fake_library("10.3.0"))
    with pytest.raises(UsageError, match=r"input_ids.*\(5, 3\).*\(1, 2\) to \(4, 12\)") as caught:
        stages["text_encoder"].run(prompt(batch=5, tokens=3))
    assert "--batch-profile" in caught.value.hint
    stages.close()


def test_a_bundle_for_larger_batches_than_its_engines_is_drawn_in_their_batches(
    engines_in, cuda, tiny_bundle, monkeypatch
):
    engines = open_engines(engines_in(), "fp32", "tensorrt", cuda=cuda, trt=fake_library("10.3.0"))
    model = TextToImage.load(tiny_bundle, backend="onnxruntime")
    manifest = dataclasses.replace(model.bundle.manifest, batch=BatchProfile(min=1, opt=1, max=8))
    monkeypatch.setattr(model.bundle, "manifest", manifest)
    expected = model.generate(["dog", "cat", "river"] * 3, range(9))
    taken = []

    class Limited:
        """ONNX Runtime behind an engine's limit."""

        def __init__(self, session, largest_batch):
            self.session, self.largest_batch = session, largest_batch

        def run(self, inputs):
            taken.append({len(value) for value in inputs.values()})
            return self.session.run(inputs)

    limited = {n: Limited(session, engines[n].largest_batch) for n, session in model.sessions.items()}
    monkeypatch.setattr(model, "sessions", limited)
    drawn = model.generate(["dog", "cat", "river"] * 3, range(9))
    assert np.array_equal(drawn.codes, expected.codes)
    assert np.array_equal(drawn.images, expected.images)
    assert max(set.union(*taken)) == MAX_BATCH


def test_a_wrong_type_a_missing_input_and_a_value_beyond_32_bits_are_refused(engines_in, cuda):
    bundle = engines_in("8.6.1", int_type="INT32")
    stages = open_engines(bundle, "fp32", "tensorrt", cuda=cuda, trt=fake_library("8.6.1"))
    encoder, inputs = stages["text_encoder"], prompt()
    with pytest.raises(UsageError, match="is float32, expected int64"):
        encoder.run({**inputs, "input_ids": inputs["input_ids"].astype(np.float32)})
    with pytest.raises(UsageError, match="'attention_mask' is missing"):
        encoder.run({"input_ids": inputs["input_ids"]})
    with pytest.raises(UsageError, match="does not fit 32 bits"):
        encoder.run({**inputs, "input_ids": inputs["input_ids"] + (1 << 31)})
    stages.close()


def test_an_engine_that_fails_says_which_stage(engines_in, cuda):
    library = fake_library("10.3.0")
    stages = open_engines(engines_in(), "fp32", "tensorrt", cuda=cuda, trt=library)
    library._failing = True
    with pytest.raises(TextualVisionError, match="text_encoder: TensorRT refused execution"):
        stages["text_encoder"].run(prompt())
    stages.close()
