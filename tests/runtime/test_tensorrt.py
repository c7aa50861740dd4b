"""Running engines: the real wrapper over a counting libcudart and a library with each version's surface."""

import dataclasses
import gc
import hashlib
import json

import fake_cudart
import numpy as np
import pytest
from fake_tensorrt import VERSIONS, fake_library

from textual_vision.runtime.backends import cudart, tensorrt
from textual_vision.runtime.backends.cudart import load_cudart, probe
from textual_vision.runtime.backends.tensorrt import EngineOptions, engine_from_plan, open_engines
from textual_vision.runtime.backends.tensorrt_api import load_library, new_logger
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.engines import (
    EngineRecord,
    Fingerprint,
    ShapeRange,
    StageEngine,
    bytes_from_record,
    engine_folder,
)
from textual_vision.runtime.errors import (
    BackendMissingError,
    DeviceMismatchError,
    IntegrityError,
    TextualVisionError,
    UsageError,
)
from textual_vision.runtime.manifest import (
    BatchProfile,
    EngineSpec,
    FileSpec,
    manifest_from_bytes,
    write_manifest,
)
from textual_vision.runtime.pipeline import TextToImage

MAX_BATCH, TOKENS = 4, 12
DTYPES = {"float32": "FLOAT", "int64": "INT64", "uint8": "UINT8"}


@pytest.fixture(scope="session")
def cudart_file(tmp_path_factory):
    library = fake_cudart.compile_cudart(tmp_path_factory.mktemp("cudart"))
    if library is None:
        pytest.skip("no C compiler here: the stand-in for libcudart cannot be built")
    return library


@pytest.fixture
def counters(cudart_file):
    return fake_cudart.Counters(cudart_file)


@pytest.fixture
def cuda(cudart_file, counters):
    return load_cudart(str(cudart_file))


@pytest.fixture
def engines_in(tiny_bundle):
    """Puts plans of the fake library into the tiny bundle: `engines_in("10.3.0", compute=("8.7",))`."""

    def put(version="10.3.0", *, int_type="INT64", edit_plan=lambda plan: plan, digest=None, **changed):
        manifest = manifest_from_bytes((tiny_bundle / "manifest.json").read_bytes())
        kind = "tensorrt-rtx" if version.startswith("rtx") else "tensorrt"
        about = {"kind": kind, "library": version.removeprefix("rtx-"), "compute": ("8.6",), **changed}
        built, files, stages = Fingerprint(**about), {}, {}
        for stage in manifest.stages:
            plan = edit_plan(json.dumps(plan_of(stage, int_type)).encode())
            files[f"{engine_folder(built, 'fp32')}/{stage.name}.plan"] = plan
            graph = manifest.precisions["fp32"].files[stage.name]
            stages[stage.name] = StageEngine(
                graph=graph,
                graph_sha256=digest or manifest.files[graph].sha256,
                profile={"x": ShapeRange(min=(1,), opt=(1,), max=(4,))},
                dtypes={},
                count=None,
                layers={},
            )
        spec = EngineSpec(
            fingerprint=built.name,
            precision="fp32",
            files=dict(zip([stage.name for stage in manifest.stages], files, strict=True)),
        )
        record = EngineRecord(
            schema_version=1, fingerprint=built, precision="fp32", settings={}, stages=stages
        )
        files[f"{engine_folder(built, 'fp32')}/engine.json"] = bytes_from_record(record)
        declared = dict(manifest.files)
        for name, data in files.items():
            (tiny_bundle / name).parent.mkdir(parents=True, exist_ok=True)
            (tiny_bundle / name).write_bytes(data)
            declared[name] = FileSpec(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        changed_manifest = dataclasses.replace(manifest, files=declared, engines=(*manifest.engines, spec))
        write_manifest(changed_manifest, tiny_bundle)
        return Bundle(tiny_bundle)

    return put


def plan_of(stage, int_type):
    def tensor(spec):
        dtype = DTYPES[spec.dtype]
        return {"name": spec.name, "dtype": int_type if dtype == "INT64" else dtype}

    def shape(spec, batch, tokens):
        return [{"batch": batch, "tokens": tokens}.get(size, size) for size in spec.shape]

    inputs = [
        {**tensor(s), "shapes": [shape(s, 1, 2), shape(s, 1, 6), shape(s, MAX_BATCH, TOKENS)]}
        for s in stage.inputs
    ]
    outputs = [{**tensor(s), "from": stage.inputs[0].name} for s in stage.outputs]
    return {"inputs": inputs, "outputs": outputs, "scratch": 4096}


def prompt(batch=2, tokens=5):
    ids = np.arange(batch * tokens, dtype=np.int64).reshape(batch, tokens)
    return {"input_ids": ids, "attention_mask": np.ones((batch, tokens), np.int64)}


def kind_of(version):
    return "tensorrt-rtx" if version.startswith("rtx") else "tensorrt"


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
    options = EngineOptions(cuda_graph=True)
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
    library, options = fake_library("rtx-1.7.1.116"), EngineOptions(cuda_graph=True)
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
    assert "--batch" in caught.value.hint
    stages.close()


def test_a_bundle_for_larger_batches_than_its_engines_is_drawn_in_their_batches(
    engines_in, cuda, tiny_bundle, monkeypatch
):
    engines = open_engines(engines_in(), "fp32", "tensorrt", cuda=cuda, trt=fake_library("10.3.0"))
    model = TextToImage.load(tiny_bundle, backend="onnxruntime")
    manifest = dataclasses.replace(model.bundle.manifest, batch=BatchProfile(min=1, opt=1, max=8))
    monkeypatch.setattr(model.bundle, "manifest", manifest)
    expected = model.draw(["dog", "cat", "river"] * 3, range(9))
    taken = []

    class Limited:
        """ONNX Runtime behind an engine's limit."""

        def __init__(self, session, largest_batch):
            self.session, self.largest_batch = session, largest_batch

        def run(self, inputs):
            taken.append({len(value) for value in inputs.values()})
            return self.session.run(inputs)

    limited = {n: Limited(session, engines[n].largest_batch) for n, session in model._sessions.items()}
    monkeypatch.setattr(model, "_sessions", limited)
    drawn = model.draw(["dog", "cat", "river"] * 3, range(9))
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
    assert "textual-vision[tensorrt]" in caught.value.hint
    with pytest.raises(UsageError, match="unknown kind"):
        load_library("tensorflow")


@pytest.mark.parametrize("version", ["10.3.0", "rtx-1.7.1.116"])
@pytest.mark.parametrize("damage", [lambda plan: b"", lambda plan: plan[:50], lambda plan: b"\0" * 99])
def test_a_damaged_plan_is_refused(version, damage, engines_in, cuda, counters):
    bundle, before = engines_in(version, edit_plan=damage), counters.live
    with pytest.raises((IntegrityError), match=r"text_encoder\.plan") as caught:
        open_engines(bundle, "fp32", kind_of(version), cuda=cuda, trt=fake_library(version))
    assert "--rebuild" in caught.value.hint
    gc.collect()
    assert counters.live == before


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
        engine_from_plan(library, runtime, b"{}", "a.plan", logger)


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
        tensorrt.refuse_invalid_plan(library, runtime, b"x", "a.plan")


def test_engines_with_host_code_are_loaded_only_when_trusted(engines_in, cuda, counters):
    before, bundle, library = counters.live, engines_in(version_compatible=True), fake_library("10.3.0")
    with pytest.raises(UsageError, match="code for the computer itself"):
        open_engines(bundle, "fp32", "tensorrt", cuda=cuda, trt=library)
    assert counters.live == before
    options = EngineOptions(trust_host_code=True)
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
