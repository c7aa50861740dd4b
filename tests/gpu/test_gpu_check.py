"""The check for machines with a GPU: what of it can be tried without one, and all of it with one."""

import dataclasses
import json
import subprocess
import sys

import fake_cudart
import pytest
from fake_tensorrt import fake_library

from textual_vision.export.tensorrt import engines as engine_bundle
from textual_vision.export.tensorrt import gpu_check
from textual_vision.export.tensorrt.gpu_check import Gpu, batches_of, check_bundle, find_gpu
from textual_vision.runtime.backends.stages import open_stages
from textual_vision.runtime.backends.tensorrt.cudart import load_cudart, probe
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.pipeline import TextToImage

# The tiny bundle knows a dozen words.
pytestmark = pytest.mark.filterwarnings("ignore::textual_vision.runtime.errors.PromptWarning")


@pytest.fixture
def pretended_gpu(tmp_path, monkeypatch):
    library = fake_cudart.compile_cudart(tmp_path)
    if library is None:
        pytest.skip("no C compiler here: the stand-in for libcudart cannot be built")
    fake_cudart.Counters(library)
    cuda = load_cudart(str(library))
    monkeypatch.setattr(
        engine_bundle, "table_from_plan", lambda trt, plan, settings, profile: "Name: x, LayerType: kgen"
    )
    monkeypatch.setattr(engine_bundle, "product_nodes", lambda graph: ({}, frozenset()))
    return Gpu(cuda=cuda, device=probe(cuda), libraries={"tensorrt": fake_library("10.3.0")}, missing={})


def test_an_engine_that_draws_something_else_fails_the_check(tiny_bundle, pretended_gpu):
    """The pretended engines double their inputs, which is not what the graphs do."""
    report = check_bundle(tiny_bundle, pretended_gpu, on_progress=lambda text: None)
    assert report["verdict"] == "fail"
    assert report["device"]["compute"] == "8.6"
    assert report["precisions"]["fp32"]["tensorrt"]["verdict"] == "fail"
    assert json.loads(json.dumps(report)) == report
    assert not Bundle(tiny_bundle).manifest.engines


@pytest.mark.parametrize(("compute", "known"), [("8.6", True), ("9.0", False)])
def test_a_gpu_that_rtx_does_not_know_is_missing_it_with_the_reason(
    compute, known, pretended_gpu, monkeypatch
):
    device = dataclasses.replace(pretended_gpu.device, compute=compute)
    monkeypatch.setattr(gpu_check, "load_cudart", lambda: pretended_gpu.cuda)
    monkeypatch.setattr(gpu_check, "probe", lambda cuda: device)
    versions = {"tensorrt": "10.3.0", "tensorrt-rtx": "rtx-1.7.1.116"}
    monkeypatch.setattr(gpu_check, "load_library", lambda kind: fake_library(versions[kind]))
    gpu = find_gpu()
    assert set(gpu.libraries) == ({"tensorrt", "tensorrt-rtx"} if known else {"tensorrt"})
    assert known or "does not build for compute capability 9.0" in gpu.missing["tensorrt-rtx"]


def test_the_reference_holds_every_tensor_of_the_way(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    batches = batches_of(bundle, open_stages(bundle, "fp32", "onnxruntime", None))
    assert sum(len(batch.prompts) for batch in batches) == 16
    assert set(batches[0].tensors) >= {"input_ids", "noise", "text", "codes", "image"}


def test_without_a_gpu_the_command_ends_with_exit_code_6_and_writes_nothing(tmp_path):
    output = tmp_path / "check.json"
    arguments = [sys.executable, "-m", "textual_vision.export.cli.main", "gpu-check", "-o", str(output)]
    environment = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 6, done.stderr
    assert "hint:" in done.stderr
    assert not output.exists()


@pytest.mark.gpu
def test_all_that_runs_on_the_gpu_draws_what_onnx_runtime_draws(tiny_bundle):
    """Fails where nothing does."""
    report = check_bundle(tiny_bundle, find_gpu(), on_progress=print)
    assert report["verdict"] == "pass", json.dumps(report, indent=1)


@pytest.mark.gpu
def test_the_pipeline_runs_on_engines(tiny_bundle):
    from textual_vision.export.tensorrt.builder import EngineSettings
    from textual_vision.export.tensorrt.engines import add_engines
    from textual_vision.export.tensorrt.options import EngineBuildOptions

    gpu = find_gpu()
    if not gpu.libraries:
        pytest.skip(f"no engine runs here: {gpu.missing}")
    for kind in gpu.libraries:
        compute = (gpu.device.compute,) if kind == "tensorrt-rtx" else ()
        settings = EngineSettings(precision="fp32", compute=compute)
        add_engines(tiny_bundle, EngineBuildOptions(kind=kind, settings=settings), on_progress=print)
        image = TextToImage.load(tiny_bundle, backend=kind)("a dog", seed=7)
        expected = TextToImage.load(tiny_bundle, backend="onnxruntime")("a dog", seed=7)
        assert abs(image.astype(int) - expected).mean() < 2
