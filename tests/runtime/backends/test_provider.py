"""ONNX Runtime's providers: the one that was asked for runs, or an error says which would have."""

import onnxruntime
import pytest

from textual_vision.runtime.backends.session import SessionOptions, open_session
from textual_vision.runtime.errors import BackendMissingError


@pytest.mark.parametrize(
    ("backend", "provider"),
    [("onnxruntime-cuda", "CUDAExecutionProvider"), ("onnxruntime-tensorrt", "TensorrtExecutionProvider")],
)
@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_provider_that_gives_way_to_the_cpu_once_the_session_is_made_is_an_error(
    backend, provider, tiny_files, monkeypatch
):
    if provider in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider, "CPUExecutionProvider"])
    options = SessionOptions(backend=backend, name="latent.onnx")
    with pytest.raises(BackendMissingError, match=f"{provider} does not work here: .* CPUExecutionProvider"):
        open_session(tiny_files["onnx/fp32/latent.onnx"], options)


def test_cuda_is_asked_for_whole_float32(tiny_files, monkeypatch):
    asked = []

    def session(graph, settings, *, providers, enable_fallback):
        asked.extend(providers)
        raise RuntimeError("no GPU here")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(BackendMissingError, match="no GPU here"):
        open_session(
            tiny_files["onnx/fp32/latent.onnx"], SessionOptions(backend="onnxruntime-cuda", name="l")
        )
    assert asked == [("CUDAExecutionProvider", {"use_tf32": "0", "enable_cuda_graph": "1"})]
