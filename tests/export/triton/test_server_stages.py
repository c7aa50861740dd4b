"""On a real server: stages as models of their own, models of other kinds, and versions side by side."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from triton_server import MODEL, ask, client_of, inputs_of, run_stages_by_python, running_server

from textual_vision.export.triton.options import TritonOptions
from textual_vision.export.triton.repository import write_repository
from textual_vision.runtime import TextToImage
from textual_vision.runtime.errors import PromptWarning
from textual_vision.runtime.generation.conditions import ConditionReader

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
READY = f"/v2/models/{MODEL}/versions/{{}}/ready"
RELOAD = f"/v2/repository/models/{MODEL}/load"


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    """A model with labels, a parameter, codes, and a stage in a loop."""
    place = tmp_path_factory.mktemp("sampler") / "sampler.tv"
    source = f"{ROOT / 'docs' / 'examples' / 'sampler.py'}:make"
    command = [sys.executable, "-m", "textual_vision.export.cli.main", "build", source, "-o", place]
    subprocess.run([*map(str, command), "--precision", "fp32"], check=True, capture_output=True)
    return place


def hits_of(server, model):
    """How many requests the response cache has answered for a model."""
    for line in server.read_metrics().splitlines():
        if line.startswith(f'nv_cache_num_hits_per_model{{model="{model}"'):
            return float(line.rpartition(" ")[2])
    return 0.0


def test_stages_as_models_of_their_own_give_the_same_pictures(launcher, served_bundle, alone, tmp_path):
    options = TritonOptions(stages="onnxruntime", max_batch=4, instances=2, cache_text=True)
    write_repository(served_bundle, tmp_path / "models", options)
    run_stages_by_python(tmp_path / "models")
    log = tmp_path / "server.log"
    with running_server(
        launcher, tmp_path / "models", log, "--cache-config", "local,size=10485760"
    ) as server:
        client = client_of(server, "grpc")
        for prompts, seeds in (
            (["dog"], [1]),
            (["cat wearing sunglasses", "dog"], [2, 3]),
            (["river"] * 4, [4] * 4),
        ):
            image, codes = ask(client, prompts, seeds)
            expected = alone.generate(prompts, seeds)
            np.testing.assert_array_equal(image, expected.images)
            np.testing.assert_array_equal(codes, expected.codes)
        tensors = ConditionReader(alone.bundle).read(["green river"]).tensors
        inputs = inputs_of(client[0], {name: tensors[name] for name in ("input_ids", "attention_mask")})
        before = hits_of(server, f"{MODEL}_text_encoder")
        for _ in range(2):
            client[1].infer(f"{MODEL}_text_encoder", inputs)
        deadline = time.monotonic() + 10
        while hits_of(server, f"{MODEL}_text_encoder") == before and time.monotonic() < deadline:
            time.sleep(0.2)  # metrics are collected now and then
        assert hits_of(server, f"{MODEL}_text_encoder") > before
        assert hits_of(server, f"{MODEL}_latent") == 0


@pytest.mark.parametrize("stages", ["python", "onnxruntime"])
def test_labels_parameters_and_loops_are_served(launcher, sampler, tmp_path, stages):
    write_repository(sampler, tmp_path / "models", TritonOptions(stages=stages, max_batch=4))
    if stages == "onnxruntime":
        run_stages_by_python(tmp_path / "models")
    model = TextToImage.load(sampler, "fp32", "onnxruntime", threads=1)
    with running_server(launcher, tmp_path / "models", tmp_path / "server.log") as server:
        client = client_of(server, "http")
        for guidance in (None, 0.0, 9.5):
            numbers = {} if guidance is None else {"guidance": guidance}
            image, codes = ask(client, ["1", "2"], [7, 8], **numbers)
            expected = model.generate(["1", "2"], [7, 8], parameters=numbers)
            np.testing.assert_array_equal(image, expected.images)
            np.testing.assert_array_equal(codes, expected.codes)
        for prompts, numbers, words in (
            (["3"], {}, "label 3 is out of range"),
            (["pear"], {}, "no label 'pear'"),
            (["1"], {"guidance": 10.5}, "parameter 'guidance' is 10.5"),
            (["1"], {"guidance": float("nan")}, "parameter 'guidance' is nan"),
        ):
            with pytest.raises(client[0].InferenceServerException, match=words) as caught:
                ask(client, prompts, [1], **numbers)
            assert caught.value.status() == "400"


def test_a_server_that_polls_serves_a_new_version_beside_the_older_one(
    launcher, served_bundle, alone, tmp_path
):
    write_repository(served_bundle, tmp_path / "models", TritonOptions())
    options = ("--model-control-mode", "poll", "--repository-poll-secs", "1")
    with running_server(launcher, tmp_path / "models", tmp_path / "server.log", *options) as server:
        write_repository(served_bundle, tmp_path / "models", TritonOptions(max_batch=2))
        server.wait(READY.format(2))
        client = client_of(server, "http")
        for version in ("1", "2"):
            image, _ = ask(client, ["dog"], [7], version=version)
            np.testing.assert_array_equal(image[0], alone("dog", 7))
        assert ask(client, ["dog", "cat"], [7, 8], version="2")[0].shape == (2, 8, 8, 3)
        assert "failed to load" not in server.log.read_text("utf-8", "replace")


def test_a_model_whose_process_triton_lost_is_loaded_again_on_request(
    launcher, served_bundle, alone, tmp_path
):
    """Triton does not start the Python backend's own process again: its requests fail until a reload."""
    write_repository(served_bundle, tmp_path / "models", TritonOptions())
    options = ("--model-control-mode", "explicit", "--load-model", "*")
    with running_server(launcher, tmp_path / "models", tmp_path / "server.log", *options) as server:
        client = client_of(server, "grpc")
        ask(client, ["dog"], [7])
        (stub,) = server.stubs()
        os.kill(stub, signal.SIGKILL)
        with pytest.raises(client[0].InferenceServerException, match="not healthy"):
            ask(client, ["dog"], [7])
        assert server.status(RELOAD, b"") == 200
        np.testing.assert_array_equal(ask(client, ["dog"], [7])[0][0], alone("dog", 7))


def test_a_damaged_bundle_is_not_served_and_the_log_says_why(launcher, served_bundle, tmp_path):
    write_repository(served_bundle, tmp_path / "models", TritonOptions())
    graph = tmp_path / "models" / MODEL / "1" / "bundle.tv" / "onnx" / "fp32" / "latent.onnx"
    data = bytearray(graph.read_bytes())
    data[100] ^= 1
    graph.write_bytes(bytes(data))
    with (
        pytest.raises(AssertionError) as caught,
        running_server(launcher, tmp_path / "models", tmp_path / "server.log"),
    ):
        pass
    assert "onnx/fp32/latent.onnx: its content is not what the manifest promises" in str(caught.value)


def test_words_that_the_model_does_not_know_are_in_the_response(launcher, served_bundle, tmp_path, alone):
    write_repository(served_bundle, tmp_path / "models", TritonOptions(name=MODEL))
    with running_server(launcher, tmp_path / "models", tmp_path / "server.log") as server:
        module, client = client_of(server, "http")
        tensors = {"prompt": np.array([[b"a zebra"]], np.object_), "seed": np.array([[7]], np.uint64)}
        answer = client.infer(MODEL, inputs_of(module, tensors))
    with pytest.warns(PromptWarning) as warned:
        alone("a zebra", 7)
    assert answer.as_numpy("warnings")[0, 0].decode() == str(warned[0].message)
