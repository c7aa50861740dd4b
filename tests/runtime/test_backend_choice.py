"""Which backend is used, where a library is missing or was left in pieces."""

import importlib.machinery
import sys

import pytest

from textual_vision.runtime.backends import session
from textual_vision.runtime.backends.session import SessionOptions, default_backend, open_session
from textual_vision.runtime.errors import BackendMissingError


@pytest.fixture
def leftover(monkeypatch, tmp_path):
    """Call it with packages' names: importing them finds empty folders, as uninstalling may leave them."""

    def leave(*names):
        class Leftover:
            def find_spec(self, name, path=None, target=None):
                if name not in names:
                    return None
                spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
                spec.submodule_search_locations = [str(tmp_path)]
                return spec

        for loaded in list(sys.modules):
            ours = loaded.rpartition(".")[2] in (
                "onnxruntime",
                "openvino",
                "openvino_rewrites",
                "cuda_graphs",
            )
            if loaded.split(".")[0] in names or ours:
                monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setattr(sys, "meta_path", [Leftover(), *sys.meta_path])

    return leave


def test_a_folder_that_onnxruntime_left_behind_is_no_backend(leftover):
    leftover("onnxruntime", "onnxruntime.capi")
    assert default_backend() == "openvino"


def test_a_damaged_library_that_is_asked_for_is_an_error_that_says_so(leftover, tiny_files):
    leftover("onnxruntime", "onnxruntime.capi")
    options = SessionOptions(backend="onnxruntime", name="latent.onnx")
    with pytest.raises(BackendMissingError, match="onnxruntime is damaged") as caught:
        open_session(tiny_files["onnx/fp32/latent.onnx"], options)
    assert caught.value.hint.startswith("install it again: pip install")


def test_without_any_backend_the_error_says_what_to_install(leftover):
    leftover("onnxruntime", "openvino")
    with pytest.raises(BackendMissingError, match="no backend is installed") as caught:
        default_backend()
    assert caught.value.hint == session.BACKENDS["onnxruntime"][0].install
