"""What is refused before an engine runs: no driver, no library, plans that are damaged or of others."""

import pytest
from fake_plans import kind_of
from fake_tensorrt import fake_library

from textual_vision.runtime.backends.tensorrt import cudart
from textual_vision.runtime.backends.tensorrt import session as tensorrt
from textual_vision.runtime.backends.tensorrt.api import load_library, new_logger
from textual_vision.runtime.backends.tensorrt.cudart import load_cudart, probe
from textual_vision.runtime.backends.tensorrt.session import EngineRunOptions, engine_from_plan, open_engines
from textual_vision.runtime.errors import (
    BackendMissingError,
    DeviceMismatchError,
    IntegrityError,
    TextualVisionError,
    UsageError,
)
from textual_vision.runtime.pipeline import TextToImage


@pytest.mark.parametrize(
    ("code", "words"), [(35, "no NVIDIA driver"), (100, "no NVIDIA GPU"), (46, "cudaError 46")]
)
def test_without_driver_or_gpu_no_object_of_the_library_is_made(code, words, engines_in, cuda, counters):
    library, counters.error = fake_library("10.3.0"), code
    with pytest.raises(BackendMissingError, match=words) as caught:
        open_engines(engines_in(), "fp32", "tensorrt", cuda=cuda, trt=library)
    assert caught.value.exit_code == 6
    assert caught.value.hint
    assert not library._runtimes


def test_no_visible_gpu_is_an_error_even_when_the_driver_says_nothing(cuda, counters):
    counters.devices = 0
    with pytest.raises(BackendMissingError, match="no NVIDIA GPU"):
        probe(cuda)


def test_the_probe_tells_what_is_here(cuda, counters):
    counters.major, counters.minor, counters.integrated = 8, 7, 1
    device = probe(cuda)
    assert (device.compute, device.driver, device.integrated) == ("8.7", "12.4", True)
    assert (device.free_bytes, device.total_bytes) == (3 << 20, 8 << 20)


def test_a_missing_libcudart_and_one_that_is_something_else_are_told_apart(tmp_path):
    with pytest.raises(BackendMissingError, match="not installed"):
        load_cudart(str(tmp_path / "libcudart.so"))
    with pytest.raises(BackendMissingError, match="unsuitable"):
        load_cudart("libc.so.6")


def test_a_missing_library_names_what_to_install():
    with pytest.raises(BackendMissingError) as caught:
        load_library("tensorrt")
    assert "promptsprite[tensorrt]" in caught.value.hint
    with pytest.raises(UsageError, match="unknown kind"):
        load_library("tensorflow")


@pytest.mark.parametrize("version", ["10.3.0", "rtx-1.7.1.116"])
@pytest.mark.parametrize("damage", [lambda plan: b"", lambda plan: plan[:50], lambda plan: b"\0" * 99])
def test_a_damaged_plan_is_refused(version, damage, engines_in, cuda, counters):
    bundle, before = engines_in(version, edit_plan=damage), counters.live
    with pytest.raises(IntegrityError, match=r"text_encoder\.plan") as caught:
        open_engines(bundle, "fp32", kind_of(version), cuda=cuda, trt=fake_library(version))
    assert f"--precision fp32 --target {kind_of(version)}" in caught.value.hint
    assert caught.value.hint.endswith("--rebuild")
    assert counters.live == before  # though the error is still here


def test_a_plan_changed_on_disk_is_found_by_its_digest(engines_in, cuda):
    bundle = engines_in()
    path = bundle.root / bundle.manifest.engines[0].files["latent"]
    path.write_bytes(path.read_bytes().replace(b"4096", b"8192"))
    with pytest.raises(IntegrityError, match="SHA-256"):
        open_engines(bundle, "fp32", "tensorrt", cuda=cuda, trt=fake_library("10.3.0"))


def test_a_plan_of_another_version_is_a_mismatch_when_the_library_says_so():
    library = fake_library("10.3.0")
    logger = new_logger(library)
    runtime = library.Runtime(logger)
    logger.log(library._severity.ERROR, "The engine plan file is not compatible: version tag mismatch")
    runtime.deserialize_cuda_engine = lambda plan: None
    with pytest.raises(DeviceMismatchError, match="version tag"):
        engine_from_plan(library, runtime, b"{}", "a.plan", logger, "rebuild")


@pytest.mark.parametrize(
    ("bits", "kind", "words"),
    [
        (1, DeviceMismatchError, "VERSION_MISMATCH"),
        (2 | 8, DeviceMismatchError, "UNSUPPORTED_CC, OLD_CUDA_RUNTIME"),
        (16, TextualVisionError, "INSUFFICIENT_GPU_MEMORY"),
        (32, IntegrityError, "MALFORMED_ENGINE"),
        (0, IntegrityError, "unreadable"),
    ],
)
def test_what_rtx_says_of_a_plan_decides_the_error(bits, kind, words):
    library = fake_library("rtx-1.7.1.116")
    runtime = library.Runtime(new_logger(library))
    object.__setattr__(runtime, "get_engine_validity", lambda plan: (library.EngineValidity.INVALID, bits))
    with pytest.raises(kind, match=words):
        tensorrt.refuse_invalid_plan(library, runtime, b"x", "a.plan", runtime._logger, "rebuild")


def test_a_gpu_that_rtx_cannot_reach_is_not_the_plans_fault():
    library = fake_library("rtx-1.7.1.116")
    runtime = library.Runtime(new_logger(library))
    runtime._logger.log(library._severity.INFO, "Error reading CUDA GPU properties (cudaError 35)")
    object.__setattr__(runtime, "get_engine_validity", lambda plan: (library.EngineValidity.INVALID, 0))
    with pytest.raises(BackendMissingError, match="cannot use the GPU: Error reading CUDA"):
        tensorrt.refuse_invalid_plan(library, runtime, b"x", "a.plan", runtime._logger, "rebuild")


def test_engines_with_host_code_are_loaded_only_when_trusted(engines_in, cuda, counters):
    before, bundle, library = counters.live, engines_in(version_compatible=True), fake_library("10.3.0")
    with pytest.raises(UsageError, match="code that runs on the CPU"):
        open_engines(bundle, "fp32", "tensorrt", cuda=cuda, trt=library)
    assert counters.live == before
    options = EngineRunOptions(trust_host_code=True)
    stages = open_engines(bundle, "fp32", "tensorrt", options, cuda=cuda, trt=library)
    assert library._runtimes[-1].engine_host_code_allowed is True
    stages.close()


def test_the_names_in_the_engine_must_be_the_manifests(engines_in, cuda):
    bundle = engines_in(edit_plan=lambda plan: plan.replace(b'"input_ids"', b'"ids"'))
    with pytest.raises(IntegrityError, match=r"the engine has .*'ids'"):
        open_engines(bundle, "fp32", "tensorrt", cuda=cuda, trt=fake_library("10.3.0"))


def test_error_texts_carry_number_and_words(cuda):
    assert cuda.describe(cudart.INSUFFICIENT_DRIVER) == "cudaError 35, driver too old"


def test_the_real_cuda_runtime_has_every_function_and_its_probe_never_crashes():
    try:
        real = load_cudart()
    except BackendMissingError:
        pytest.skip("the CUDA runtime is not installed here")
    assert real.describe(0) == "cudaError 0, no error"
    try:
        assert probe(real).total_bytes > 0
    except BackendMissingError as error:
        assert "cudaError" in error.message


def test_drawing_without_a_gpu_ends_before_the_library_is_loaded(engines_in, cuda, counters, monkeypatch):
    counters.error, loaded = 35, []
    monkeypatch.setattr(tensorrt, "load_cudart", lambda: cuda)
    monkeypatch.setattr(tensorrt, "load_library", loaded.append)
    with pytest.raises(BackendMissingError, match="no NVIDIA driver"):
        TextToImage.load(engines_in().root, backend="tensorrt")
    assert not loaded
