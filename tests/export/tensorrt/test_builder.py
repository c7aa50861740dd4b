"""The one builder over every version's real surface: what it asks each of them for."""

import threading
import time
from functools import partial

import pytest
import tiny_graphs as tiny
from fake_tensorrt import VERSIONS, fake_library

from textual_vision.export.tensorrt import progress as engine_progress
from textual_vision.export.tensorrt.builder import EngineSettings, build_plan, table_from_plan
from textual_vision.export.tensorrt.dla import check_dla_used, dla_count
from textual_vision.export.tensorrt.memory import available_bytes, build_bytes, check_memory
from textual_vision.export.tensorrt.progress import build_with_progress
from textual_vision.runtime.engines import DlaCount, ShapeRange
from textual_vision.runtime.errors import DeviceMismatchError, IntegrityError, TextualVisionError, UsageError

UP_TO_10, FROM_10 = ("8.6.1", "10.3.0", "10.13.3.9"), VERSIONS[1:]
PROFILE = {"x": ShapeRange(min=(1, 8, 8, 8), opt=(2, 8, 8, 8), max=(4, 8, 8, 8))}
ONE_SHAPE = {"x": ShapeRange(min=(1, 8, 8, 8), opt=(1, 8, 8, 8), max=(1, 8, 8, 8))}


def build(
    library, precision="fp32", *, graph=None, profile=PROFILE, timing_cache=b"", calibrator=None, **settings
):
    plan = build_plan(
        library,
        tiny.conv() if graph is None else graph,
        "tiny.onnx",
        profile,
        EngineSettings(precision=precision, **settings),
        on_progress=lambda text: None,
        timing_cache=timing_cache,
        calibrator=calibrator,
    )
    network, config = library._built[-1]
    return plan, network, config


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_version_builds_every_precision(version, precision):
    library = fake_library(version)
    plan, _, config = build(library, precision)
    assert plan.dtypes == {"x": "FLOAT", "y": "FLOAT"}
    assert config._profile._shapes == {"x": [[1, 8, 8, 8], [2, 8, 8, 8], [4, 8, 8, 8]]}
    assert config.profiling_verbosity is library.ProfilingVerbosity.DETAILED
    assert "TF32" in config._cleared


@pytest.mark.parametrize("version", FROM_10)
def test_networks_are_strongly_typed_from_10_on_and_no_type_is_allowed_beside(version):
    library = fake_library(version)
    _, network, config = build(library, "int8")
    assert network._flags == 1 << library.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert not config._set & {"FP16", "INT8"}


@pytest.mark.parametrize(
    ("precision", "graph", "flags"),
    [
        ("fp32", tiny.conv, set()),
        ("fp16", tiny.conv, set()),
        ("fp16", partial(tiny.conv, tiny.HALF), {"FP16"}),
        ("int8", tiny.conv, set()),
        ("int8", tiny.quantized, {"INT8"}),
    ],
)
def test_8_6_is_allowed_the_types_that_the_graph_uses(precision, graph, flags):
    library = fake_library("8.6.1")
    _, network, config = build(library, precision, graph=graph())
    assert network._flags == 1 << library.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
    assert config._set & {"FP16", "INT8"} == flags


@pytest.mark.parametrize("version", UP_TO_10)
def test_weak_types_with_a_calibrator_work_up_to_10(version):
    calibrator = object()
    _, _, config = build(fake_library(version), "int8", weakly_typed=True, calibrator=calibrator)
    assert config._set >= {"FP16", "INT8"}
    assert config.int8_calibrator is calibrator


@pytest.mark.parametrize("version", ["11.0.0.114", "11.4.0.106", "rtx-1.7.1.116"])
def test_weak_types_are_refused_where_they_no_longer_exist(version):
    with pytest.raises(UsageError, match="only strongly typed networks"):
        build(fake_library(version), weakly_typed=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_workspace_version_and_hardware_compatibility_and_effort_are_passed_on(version):
    library = fake_library(version)
    _, _, config = build(
        library,
        workspace_bytes=1 << 28,
        version_compatible=True,
        hardware_compatibility="ampere+",
        optimization_level=2,
    )
    assert config._pools == {"WORKSPACE": 1 << 28}
    assert "VERSION_COMPATIBLE" in config._set
    assert config.hardware_compatibility_level is library.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.builder_optimization_level == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_compute_capability_mode_is_used_where_it_exists_and_refused_elsewhere(version):
    library = fake_library(version)
    if version in ("8.6.1", "10.3.0"):
        with pytest.raises(UsageError, match="no same-compute-capability mode"):
            build(library, hardware_compatibility="same-compute-capability")
        return
    _, _, config = build(library, hardware_compatibility="same-compute-capability")
    assert config.hardware_compatibility_level.name == "SAME_COMPUTE_CAPABILITY"


@pytest.mark.parametrize("version", VERSIONS)
def test_only_rtx_builds_for_a_gpu_that_is_not_here(version):
    library = fake_library(version)
    if not version.startswith("rtx"):
        with pytest.raises(UsageError, match="only TensorRT-RTX"):
            build(library, compute=("8.6",))
        return
    _, _, config = build(library, compute=("8.6", "12.0"))
    assert config.num_compute_capabilities == 2
    assert config._compute == {0: "SM86", 1: "SM120"}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dla_gets_what_it_can_run_and_the_gpu_the_rest(version):
    library = fake_library(version)
    library.Builder.num_DLA_cores = 2
    plan, _, config = build(library, "fp16", profile=ONE_SHAPE, dla_core=1)
    assert plan.dla == DlaCount(dla=0, gpu=0)  # the pretended library lists nothing
    assert config.default_device_type is library.DeviceType.DLA
    assert config.DLA_core == 1
    assert "GPU_FALLBACK" in config._set
    with pytest.raises(UsageError, match="DLA core 2 is requested, and this device has 2"):
        build(library, dla_core=2)
    with pytest.raises(UsageError, match="does not compute in fp32"):
        build(library, "fp32", profile=ONE_SHAPE, dla_core=1)


def test_a_dla_is_refused_an_input_that_varies_which_would_put_all_of_it_on_the_gpu():
    library = fake_library("10.3.0")
    library.Builder.num_DLA_cores = 1
    with pytest.raises(UsageError, match=r"one shape, and 'x' varies from \(1, 8, 8, 8\) to \(4,") as caught:
        build(library, "fp16", dla_core=0)
    assert "--batch-profile 1,1,1" in caught.value.hint
    assert "--prompt-length" in caught.value.hint


def test_what_a_dla_takes_is_counted_from_the_builds_log():
    log = [
        "---------- Layers Running on DLA ----------",
        "[DlaLayer] {ForeignNode[conv_0...relu_3]}",
        "---------- Layers Running on GPU ----------\n[GpuLayer] SHUFFLE: reshape\n[GpuLayer] SOFTMAX: prob",
        "[DlaLayer] {ForeignNode[conv_7]}",
        "a layer called [GpuLayer]",
    ]
    assert dla_count(log) == DlaCount(dla=2, gpu=2)


def test_a_dla_that_takes_nothing_of_any_stage_is_an_error_with_the_numbers():
    check_dla_used({"latent": DlaCount(dla=0, gpu=7), "generator": DlaCount(dla=1, gpu=4)})
    with pytest.raises(DeviceMismatchError, match="no layer: latent 0 of 7, generator 0 of 4") as caught:
        check_dla_used({"latent": DlaCount(dla=0, gpu=7), "generator": DlaCount(dla=0, gpu=4)})
    assert "--dla" in caught.value.hint


def test_no_dla_is_an_error_not_the_gpu_instead():
    with pytest.raises(UsageError, match="this device has 0"):
        build(fake_library("10.3.0"), dla_core=0)


@pytest.mark.parametrize("version", VERSIONS[:-1])
def test_timings_of_earlier_builds_are_used_and_handed_on(version):
    plan, _, config = build(fake_library(version), timing_cache=b"earlier")
    assert config._timings._data == b"earlier"
    assert plan.timing_cache == b"earlier+"


def test_timings_of_another_version_start_anew():
    plan, _, _ = build(fake_library("10.3.0"), timing_cache=b"other version")
    assert plan.timing_cache == b"+"


def test_rtx_measures_nothing_and_keeps_no_timings():
    assert build(fake_library("rtx-1.7.1.116"), timing_cache=b"earlier")[0].timing_cache is None


@pytest.mark.parametrize("version", VERSIONS)
def test_the_inspector_is_asked_about_a_plan_built_just_now(version):
    library = fake_library(version)
    settings = EngineSettings(precision="fp32", version_compatible=True, dla_core=1)
    told = table_from_plan(library, build(library)[0].plan, settings, PROFILE)
    assert told == 'told as ONELINE for {"x": [2, 8, 8, 8]}'
    assert library._runtimes[-1].engine_host_code_allowed is True
    assert library._runtimes[-1].DLA_core == 1
    with pytest.raises(IntegrityError, match="the engine it just built"):
        table_from_plan(library, b"no plan", settings, PROFILE)


def test_a_library_that_makes_no_builder_says_why():
    """The bindings raise TypeError; what is wrong is in the log alone."""
    library = fake_library("8.6.1")

    def no_builder(logger):
        logger.log(library._severity.ERROR, "Assertion failed.")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    library.Builder = no_builder
    with pytest.raises(TextualVisionError, match="creates no builder: Assertion failed"):
        build(library)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_monitor_is_used_where_there_is_one(version):
    library = fake_library(version)
    _, _, config = build(library)
    assert (getattr(config, "progress_monitor", None) is not None) == (version != "8.6.1")


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0"])
def test_a_long_build_gives_signs_of_life(version):
    library, told = fake_library(version), []
    config = library.Builder(None).create_builder_config()
    enough = threading.Event()

    def slow():
        if version != "8.6.1":
            config.progress_monitor.phase_start("Timing tactics", None, 7)
            config.progress_monitor.step_complete("Timing tactics", 2)
        assert enough.wait(10)
        return "built"

    def report(text):
        told.append(text)
        if len(told) == 2:
            enough.set()

    assert build_with_progress(library, config, slow, report, every=0.01) == "built"
    assert "0 s" in told[0]
    assert ("Timing tactics 3/7" in told[-1]) == (version != "8.6.1")


def test_an_error_in_the_build_comes_out_of_it():
    def fail():
        raise TextualVisionError("no")

    library = fake_library("10.3.0")
    with pytest.raises(TextualVisionError, match="no"):
        build_with_progress(library, library.Builder(None).create_builder_config(), fail, print)


def test_an_interrupt_stops_the_build_at_its_next_step():
    library = fake_library("10.3.0")
    config, steps = library.Builder(None).create_builder_config(), []

    def build_until_told():
        while config.progress_monitor.step_complete("x", len(steps)):
            steps.append(1)
            time.sleep(0.001)

    def interrupt(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_with_progress(library, config, build_until_told, interrupt, every=0.01)
    assert steps
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("engine build")]


def test_a_finished_phase_is_no_longer_shown():
    progress = engine_progress.Progress()
    progress.start("outer", 4)
    progress.start("inner", 2)
    progress.step("inner", 0)
    assert progress.text() == "outer 0/4, inner 1/2"
    progress.finish("inner")
    progress.step("inner", 1)  # a late call from another thread
    assert progress.text() == "outer 0/4"


def test_too_little_memory_is_said_before_the_build_with_numbers_and_cures():
    needed = build_bytes("tensorrt", 100 << 20, 512 << 20)
    check_memory(needed, needed, "latent.onnx")
    check_memory(needed, None, "latent.onnx")
    with pytest.raises(DeviceMismatchError, match=r"latent\.onnx: .*2136 MB, 900 MB are free") as caught:
        check_memory(needed, 900 << 20, "latent.onnx")
    for cure in ("swap", "--workspace-mib", "--batch-profile", "Jetson"):
        assert cure in caught.value.hint


def test_available_memory_is_what_linux_says(tmp_path):
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:        7471104 kB\nMemFree: 10 kB\nMemAvailable:    1048576 kB\n")
    assert available_bytes(file) == 1 << 30
    file.write_text("MemTotal: 1 kB\n")
    assert available_bytes(file) is None
    assert available_bytes(tmp_path / "none") is None
