"""Engines into a bundle: what is written, kept, replaced and refused, by library and by command."""

import dataclasses
import hashlib
import json
import sys

import pytest
import tiny_graphs as tiny
from pretended_orin import ORIN, options, silent

from textual_vision.export.cli import engine as engine_cli
from textual_vision.export.tensorrt import engines as engine_bundle
from textual_vision.export.tensorrt.engines import add_engines
from textual_vision.export.tensorrt.targets import profile_of
from textual_vision.runtime import console
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.engines import ShapeRange, find_engines, read_record
from textual_vision.runtime.errors import (
    BackendMissingError,
    DeviceMismatchError,
    IntegrityError,
    ToleranceError,
    UsageError,
)
from textual_vision.runtime.manifest import (
    BatchProfile,
    StageSpec,
    TensorSpec,
    TextSpec,
    write_manifest,
)

STAGES = ["text_encoder", "latent", "generator"]
TEXT = TextSpec(tokenizer="tokenizer.json", max_tokens=12, pad_id=0, unknown_id=1)


def test_a_place_where_nothing_can_be_written_is_told_before_anything_is_built(
    tiny_bundle, orin, monkeypatch
):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UsageError, match="is not writable"):
        add_engines(tiny_bundle, options(), on_progress=silent, trt=orin, device=ORIN)
    assert not orin._built


def test_engines_of_every_stage_are_added_and_found_again(tiny_bundle, orin):
    before = Bundle(tiny_bundle).manifest
    result = add_engines(tiny_bundle, options(), on_progress=silent, trt=orin, device=ORIN)
    assert result.fingerprint == "tensorrt-10.3.0-sm87"
    assert [stage.stage for stage in result.stages] == STAGES
    bundle = Bundle(tiny_bundle)
    bundle.verify()
    (spec,) = bundle.manifest.engines
    assert spec.files["latent"] == "engines/tensorrt-10.3.0-sm87/fp32/latent.plan"
    record = read_record(bundle, spec)
    graph = before.precisions["fp32"].files["latent"]
    assert record.stages["latent"].graph_sha256 == before.files[graph].sha256
    assert record.stages["latent"].profile["text"] == ShapeRange(min=(1, 2, 8), opt=(1, 6, 8), max=(4, 12, 8))
    assert record.stages["latent"].dtype_counts.float32 == 2
    assert find_engines(bundle, "fp32", record.fingerprint) == (spec, record)
    assert all(bundle.manifest.files[name] == about for name, about in before.files.items())


def test_engines_that_are_there_are_kept_unless_asked_to_rebuild(tiny_bundle, orin):
    for rebuild, kept in ((False, False), (False, True), (True, False)):
        result = add_engines(tiny_bundle, options(rebuild=rebuild), on_progress=silent, trt=orin, device=ORIN)
        assert result.reused is kept
    assert len(Bundle(tiny_bundle).manifest.engines) == 1


def test_a_rebuild_after_an_upgrade_replaces_the_older_engines_of_the_same_gpu_only(tiny_bundle, orin):
    other = dataclasses.replace(ORIN, compute="8.6")
    for device in (ORIN, other):
        add_engines(tiny_bundle, options(), on_progress=silent, trt=orin, device=device)
    orin.__version__ = "10.4.0"
    add_engines(tiny_bundle, options(rebuild=True), on_progress=silent, trt=orin, device=ORIN)
    manifest = Bundle(tiny_bundle).manifest
    assert [spec.fingerprint for spec in manifest.engines] == ["tensorrt-10.3.0-sm86", "tensorrt-10.4.0-sm87"]
    assert not any("10.3.0-sm87" in name for name in manifest.files)


def test_engines_of_a_graph_that_has_changed_since_are_refused_and_rebuilt_when_asked(tiny_bundle, orin):
    add_engines(tiny_bundle, options(), on_progress=silent, trt=orin, device=ORIN)
    manifest = Bundle(tiny_bundle).manifest
    graph = manifest.precisions["fp32"].files["latent"]
    data = (tiny_bundle / graph).read_bytes() + b"\x10\x01"  # another ir_version's field, still a graph
    (tiny_bundle / graph).write_bytes(data)
    about = dataclasses.replace(
        manifest.files[graph], sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)
    )
    write_manifest(dataclasses.replace(manifest, files={**manifest.files, graph: about}), tiny_bundle)
    with pytest.raises(IntegrityError, match=r"latent\.plan: built from a graph"):
        add_engines(tiny_bundle, options(), on_progress=silent, trt=orin, device=ORIN)
    assert not add_engines(
        tiny_bundle, options(rebuild=True), on_progress=silent, trt=orin, device=ORIN
    ).reused


def test_timings_are_kept_for_each_fingerprint(tiny_bundle, orin, tmp_path):
    told = options(timing_folder=tmp_path / "timing")
    add_engines(tiny_bundle, told, on_progress=silent, trt=orin, device=ORIN)
    assert (
        tmp_path / "timing" / "tensorrt-10.3.0-sm87.timing"
    ).read_bytes() == b"+++"  # one + from each stage


def test_a_batch_of_ones_own_is_built_for(tiny_bundle, orin):
    told = options(batch_profile=BatchProfile(min=1, opt=8, max=16))
    add_engines(tiny_bundle, told, on_progress=silent, trt=orin, device=ORIN)
    bundle = Bundle(tiny_bundle)
    profile = read_record(bundle, bundle.manifest.engines[0]).stages["generator"].profile
    assert profile["codes"] == ShapeRange(min=(1, 4, 4), opt=(8, 4, 4), max=(16, 4, 4))


def test_too_little_memory_is_said_before_anything_is_built(tiny_bundle, orin, monkeypatch):
    monkeypatch.setattr(engine_bundle, "available_bytes", lambda: 100 << 20)
    with pytest.raises(DeviceMismatchError, match="100 MB are free"):
        add_engines(tiny_bundle, options(), on_progress=silent, trt=orin, device=ORIN)
    assert not orin._built
    add_engines(tiny_bundle, options(ignore_memory=True), on_progress=silent, trt=orin, device=ORIN)


def test_an_int8_graph_that_does_not_run_in_int8_leaves_the_bundle_as_it_was(tiny_bundle, orin, replace_file):
    stage = StageSpec(
        name="only",
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 4, tiny.CHANNELS)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 4, tiny.CHANNELS)),),
    )
    manifest = Bundle(tiny_bundle).manifest
    graph = tiny.quantized("MatMul")
    replace_file("onnx/fp32/only.onnx", graph)
    manifest = Bundle(tiny_bundle).manifest
    only = dataclasses.replace(manifest.precisions["fp32"], files={"only": "onnx/fp32/only.onnx"})
    changed = dataclasses.replace(manifest, stages=(stage,), precisions={"fp32": only})
    write_manifest(changed, tiny_bundle)
    with pytest.raises(ToleranceError, match=r"only\.onnx: 1 of 1 INT8 layers"):
        add_engines(tiny_bundle, options(), on_progress=silent, trt=orin, device=ORIN)
    assert Bundle(tiny_bundle).manifest == changed


@pytest.mark.parametrize(
    ("told", "kind", "words"),
    [
        (options(precision="fp8"), UsageError, "no precision 'fp8'"),
        (options(kind="tensorflow"), UsageError, "unknown kind"),
        (options(weakly_typed=True, precision="fp32", dla_core=0), UsageError, "DLA core 0"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny_bundle, orin, told, kind, words):
    with pytest.raises(kind, match=words):
        add_engines(tiny_bundle, told, on_progress=silent, trt=orin, device=ORIN)


def test_weakly_typed_int8_needs_a_calibration_cache(tiny_bundle, orin):
    manifest = Bundle(tiny_bundle).manifest
    precisions = {**manifest.precisions, "int8": manifest.precisions["fp32"]}
    write_manifest(dataclasses.replace(manifest, precisions=precisions), tiny_bundle)
    told = options(precision="int8", weakly_typed=True)
    with pytest.raises(UsageError, match="needs a calibration cache"):
        add_engines(tiny_bundle, told, on_progress=silent, trt=orin, device=ORIN)
    cache = b"TRT-100300-EntropyCalibration2\ntext: 3c010a14\n"
    add_engines(
        tiny_bundle,
        dataclasses.replace(told, calibration_cache=cache),
        on_progress=silent,
        trt=orin,
        device=ORIN,
    )
    _, config = orin._built[-1]
    assert config.int8_calibrator.read_calibration_cache() == cache


def test_a_size_that_varies_and_is_neither_batch_nor_tokens_is_refused():
    stage = StageSpec(
        name="odd", inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", "height")),), outputs=()
    )
    with pytest.raises(UsageError, match="'x' varies in 'height'"):
        profile_of(stage, BatchProfile(min=1, opt=1, max=1), TEXT)


@pytest.mark.parametrize(("fixed", "tokens"), [(False, (2, 6, 12)), (True, (12, 12, 12))])
def test_an_engine_takes_the_lengths_of_text_that_the_graphs_take(fixed, tokens):
    words = TensorSpec(name="x", dtype="int64", shape=("batch", "tokens"))
    stage = StageSpec(name="odd", inputs=(words,), outputs=())
    text = dataclasses.replace(TEXT, fixed_length=fixed)
    found = profile_of(stage, BatchProfile(min=1, opt=2, max=4), text)["x"]
    assert (found.min, found.opt, found.max) == tuple(zip((1, 2, 4), tokens, strict=True))


# The command, with the real TensorRT-RTX


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        console.run(engine_cli.engine_command, [str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return left.value.code, out, err


needs_rtx = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("tensorrt_rtx"), reason="TensorRT-RTX is not installed"
)


@needs_rtx
def test_the_command_builds_the_bundle_for_desktop_gpus_on_any_machine(
    tiny_bundle, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = (
        tiny_bundle,
        "--precision",
        "fp32",
        "--target",
        "tensorrt-rtx",
        "--compute-capability",
        "8.6",
    )
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["fingerprint"].startswith("tensorrt-rtx-")
    assert result["fingerprint"].endswith("-sm86")
    assert [stage["dtype_counts"]["float32"] for stage in result["stages"] if stage["dtype_counts"]] == [2, 1]
    bundle = Bundle(tiny_bundle)
    bundle.verify()
    record = read_record(bundle, bundle.manifest.engines[0])
    assert record.stages["generator"].dtypes["image"] == "UINT8"
    assert record.stages["text_encoder"].dtype_counts is None
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "has" in out
    assert "--rebuild" in out


@needs_rtx
def test_without_a_named_gpu_the_engine_is_for_every_one_from_8_0_on(tiny_bundle):
    result = add_engines(tiny_bundle, options("tensorrt-rtx"), on_progress=silent)
    assert result.fingerprint.endswith("-ampere-plus")
    bundle = Bundle(tiny_bundle)
    record = read_record(bundle, bundle.manifest.engines[0])
    here = dataclasses.replace(record.fingerprint, compute=("8.9",), compatibility="none", driver="13.0")
    assert find_engines(bundle, "fp32", here)[1] == record


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--precision", "fp32", "--target", "tensorrt-rtx", "--compute-capability", "8.7"], 2, "8.7"),
        (
            ["--precision", "fp32", "--target", "tensorrt-rtx", "--compute-capability", "sm_86"],
            2,
            "such as 8.6",
        ),
        (["--precision", "fp32", "--batch-profile", "4,2,1"], 2, "three rising numbers"),
        (["--precision", "fp32", "--batch-profile", "1,2"], 2, "three rising numbers"),
        (["--precision", "fp4", "--target", "tensorrt-rtx"], 2, "no precision 'fp4'"),
        (["--target", "tensorrt-rtx"], 2, "--precision"),
        (["--precision", "fp32", "--target", "tensorrt-rtx", "--weakly-typed"], 2, "strongly typed"),
        (["--precision", "fp32", "--target", "tensorrt-rtx", "--dla", "0"], 2, "--dla"),
    ],
)
@needs_rtx
def test_bad_input_ends_with_its_exit_code_and_a_hint(tiny_bundle, capsys, arguments, code, words):
    left, _, err = run(capsys, tiny_bundle, *arguments)
    assert left == code
    assert words in err
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="looks for Linux's libraries")
def test_tensorrt_without_a_driver_ends_before_the_library_is_loaded(tiny_bundle, monkeypatch):
    loaded = []
    monkeypatch.setattr(engine_bundle, "load_library", loaded.append)
    monkeypatch.setattr(engine_bundle, "load_cudart", raising)
    with pytest.raises(BackendMissingError, match="no driver"):
        add_engines(tiny_bundle, options(), on_progress=silent)
    assert not loaded


def raising():
    raise BackendMissingError("no driver", "install it")
