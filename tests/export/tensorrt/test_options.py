"""What `tv-export engine` refuses before any work, and which engines it leaves as they are."""

import dataclasses

import pytest
from pretended_orin import ORIN, options, silent

from textual_vision.export.cli import engine as engine_cli
from textual_vision.export.tensorrt.engines import add_engines
from textual_vision.runtime import console
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.engines import DlaCount, read_record
from textual_vision.runtime.errors import DeviceMismatchError, UsageError
from textual_vision.runtime.manifest import BatchProfile, write_manifest

ONE = BatchProfile(min=1, opt=1, max=1)


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        console.run(engine_cli.engine_command, [str(argument) for argument in arguments])
    assert left.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "given",
    [
        ("--optimization-level", 5),
        ("--hardware-compatibility", "ampere+"),
        ("--hardware-compatibility", "same-compute-capability"),
        ("--version-compatible",),
        ("--dla", 0),
    ],
)
def test_what_only_tensorrt_has_is_refused_for_rtx(tiny_bundle, capsys, given):
    shown = refused(capsys, tiny_bundle, "--precision", "fp32", "--target", "tensorrt-rtx", *given)
    assert f"{given[0]} is for TensorRT" in shown
    assert "hint: leave it out" in shown


def test_scales_for_nothing_are_refused(tiny_bundle, capsys, tmp_path):
    (tmp_path / "scales").write_bytes(b"TRT-100300-EntropyCalibration2\n")
    arguments = ("--precision", "int8", "--calibration-cache", tmp_path / "scales")
    assert "--weakly-typed" in refused(capsys, tiny_bundle, *arguments)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"batch_profile": BatchProfile(min=1, opt=2, max=16)}, "text_encoder is not for batches of 1 to 16"),
        ({"workspace_bytes": 1 << 28}, "workspace_bytes none, requested 268435456"),
        ({"optimization_level": 5}, "optimization_level none, requested 5"),
        ({"dla_core": 1}, "DLA none, requested 1"),
    ],
)
def test_engines_of_the_same_gpu_that_are_not_what_was_asked_for_are_not_passed_off_as_it(
    tiny_bundle, orin, asked, words
):
    orin.Builder.num_DLA_cores = 2
    add_engines(tiny_bundle, options(), on_progress=silent, trt=orin, device=ORIN)
    with pytest.raises(UsageError, match=words) as caught:
        add_engines(tiny_bundle, options(**asked), on_progress=silent, trt=orin, device=ORIN)
    assert "--rebuild" in caught.value.hint


def test_engines_that_were_built_as_asked_are_kept_and_so_are_others_when_nothing_was_asked(
    tiny_bundle, orin
):
    asked = options(batch_profile=BatchProfile(min=1, opt=2, max=16), workspace_bytes=1 << 28)
    add_engines(tiny_bundle, asked, on_progress=silent, trt=orin, device=ORIN)
    for again in (asked, options()):
        assert add_engines(tiny_bundle, again, on_progress=silent, trt=orin, device=ORIN).reused


@pytest.fixture
def half_of_one_length(tiny_bundle):
    """The tiny bundle, said to be fp16 and to take prompts of one length, as a DLA needs it."""
    manifest = Bundle(tiny_bundle).manifest
    text = dataclasses.replace(manifest.text, fixed_length=True)
    precisions = {**manifest.precisions, "fp16": manifest.precisions["fp32"]}
    write_manifest(dataclasses.replace(manifest, text=text, precisions=precisions), tiny_bundle)
    return tiny_bundle


def with_log(library, monkeypatch, *lines):
    """Lets the pretended builder say `lines` of each stage."""
    build = library.Builder.build_serialized_network

    def saying(self, network, config):
        for line in lines:
            self._logger.log(library._severity.INFO, line)
        return build(self, network, config)

    monkeypatch.setattr(library.Builder, "build_serialized_network", saying)


def test_what_the_dla_takes_is_counted_in_the_engines_record(half_of_one_length, orin, monkeypatch):
    orin.Builder.num_DLA_cores = 1
    with_log(orin, monkeypatch, "[DlaLayer] {ForeignNode[a...b]}", "[GpuLayer] SHUFFLE: c")
    told = []
    asked = options(precision="fp16", dla_core=0, batch_profile=ONE)
    result = add_engines(half_of_one_length, asked, on_progress=told.append, trt=orin, device=ORIN)
    assert {stage.dla for stage in result.stages} == {DlaCount(dla=1, gpu=1)}
    bundle = Bundle(half_of_one_length)
    record = read_record(bundle, bundle.manifest.engines[0])
    assert record.dla_core == 0
    assert record.stages["latent"].dla == DlaCount(dla=1, gpu=1)
    assert any("1 layers on the DLA, 1 on the GPU" in text for text in told)


def test_a_dla_that_takes_nothing_leaves_the_bundle_as_it_was(half_of_one_length, orin, monkeypatch):
    orin.Builder.num_DLA_cores = 1
    with_log(orin, monkeypatch, "[GpuLayer] SHUFFLE: c")
    asked = options(precision="fp16", dla_core=0, batch_profile=ONE)
    with pytest.raises(DeviceMismatchError, match="the DLA takes no layer"):
        add_engines(half_of_one_length, asked, on_progress=silent, trt=orin, device=ORIN)
    assert not Bundle(half_of_one_length).manifest.engines


def test_products_on_the_dla_that_the_table_does_not_name_are_counted_as_its_own(
    half_of_one_length, orin, monkeypatch
):
    from textual_vision.export.tensorrt import engines as engine_bundle

    orin.Builder.num_DLA_cores = 1
    with_log(orin, monkeypatch, "[DlaLayer] {ForeignNode[a...b]}")
    monkeypatch.setattr(
        engine_bundle,
        "table_from_plan",
        lambda trt, plan, settings, profile: "Name: {ForeignNode[a...b]}, LayerType: DLA",
    )
    asked = options(precision="fp16", dla_core=0, batch_profile=ONE)
    result = add_engines(half_of_one_length, asked, on_progress=silent, trt=orin, device=ORIN)
    counts = {stage.stage: stage.dtype_counts for stage in result.stages}
    assert counts["latent"].other == 2
