"""Which engine runs where: fingerprints, engine.json, and what is said when nothing fits."""

import dataclasses
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.engines import (
    EngineRecord,
    Fingerprint,
    LayerCount,
    ShapeRange,
    StageEngine,
    bytes_from_record,
    differences,
    engine_folder,
    find_engines,
    jetpack_release,
    rebuild_command,
    record_from_bytes,
)
from textual_vision.runtime.errors import DeviceMismatchError, IntegrityError, UsageError
from textual_vision.runtime.manifest import EngineSpec, FileSpec, manifest_from_bytes, write_manifest
from textual_vision.runtime.pipeline import TextToImage

ORIN = Fingerprint(kind="tensorrt", library="10.3.0", compute=("8.7",), driver="12.6", jetpack="36.4.3")
DESKTOP = Fingerprint(kind="tensorrt-rtx", library="1.7.1.116", compute=("8.6", "12.0"))


def record_of(bundle_manifest, fingerprint=ORIN, precision="fp32", **changed):
    stages = {}
    for stage in bundle_manifest.stages:
        graph = bundle_manifest.precisions[precision].files[stage.name]
        stages[stage.name] = StageEngine(
            graph=graph,
            graph_sha256=bundle_manifest.files[graph].sha256,
            profile={"x": ShapeRange(min=(1, 2), opt=(1, 6), max=(4, 12))},
            dtypes={"x": "FLOAT"},
            dtype_counts=LayerCount(int8=3, fp16=0, float32=1),
            layers={"conv": "int8"},
        )
    about = {"schema_version": 1, "fingerprint": fingerprint, "precision": precision, "settings": {}}
    return EngineRecord(**{**about, "stages": stages, **changed})


@pytest.fixture
def add(tiny_bundle):
    """Adds engines (of meaningless plans) for a fingerprint to the tiny bundle."""

    def put(fingerprint=ORIN, edit=lambda record: record, json_bytes=None):
        manifest = manifest_from_bytes((tiny_bundle / "manifest.json").read_bytes())
        folder = engine_folder(fingerprint, "fp32")
        record = edit(record_of(manifest, fingerprint))
        files = {f"{folder}/{stage.name}.plan": b"plan" for stage in manifest.stages}
        spec = EngineSpec(
            fingerprint=fingerprint.name,
            precision="fp32",
            files={stage.name: f"{folder}/{stage.name}.plan" for stage in manifest.stages},
        )
        files[f"{folder}/engine.json"] = json_bytes or bytes_from_record(record)
        declared = dict(manifest.files)
        for name, data in files.items():
            (tiny_bundle / name).parent.mkdir(parents=True, exist_ok=True)
            (tiny_bundle / name).write_bytes(data)
            declared[name] = FileSpec(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        manifest = dataclasses.replace(manifest, files=declared, engines=(*manifest.engines, spec))
        write_manifest(manifest, tiny_bundle)
        return Bundle(tiny_bundle)

    return put


@pytest.mark.parametrize(
    ("fingerprint", "name"),
    [
        (ORIN, "tensorrt-10.3.0-sm87"),
        (DESKTOP, "tensorrt-rtx-1.7.1.116-sm86+sm120"),
        (dataclasses.replace(ORIN, compatibility="ampere+"), "tensorrt-10.3.0-ampere-plus"),
        (dataclasses.replace(ORIN, version_compatible=True), "tensorrt-10.3.0-sm87-vc"),
    ],
)
def test_a_fingerprint_has_a_plain_name(fingerprint, name):
    assert fingerprint.name == name


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [
        ({}, {}, True),
        ({}, {"driver": "12.8", "jetpack": "36.5.0"}, True),
        ({}, {"library": "10.3.1"}, False),
        ({}, {"compute": ("8.6",)}, False),
        ({}, {"kind": "tensorrt-rtx"}, False),
        ({"compute": ("8.6", "8.7")}, {}, True),
        ({"compatibility": "ampere+"}, {"compute": ("12.0",)}, True),
        ({"compatibility": "ampere+"}, {"compute": ("7.5",)}, False),
        ({"compatibility": "ampere+"}, {"compute": ("10.0",)}, True),
        ({"compatibility": "same-compute-capability"}, {"compute": ("8.6",)}, False),
        ({"version_compatible": True}, {"library": "10.13.3"}, True),
        ({"version_compatible": True}, {"library": "10.2.9"}, False),
        ({"version_compatible": True}, {"library": "11.0.0"}, False),
    ],
)
def test_an_engine_fits_the_same_library_and_gpu_or_what_it_was_made_compatible_with(built, here, fits):
    assert (not differences(dataclasses.replace(ORIN, **built), dataclasses.replace(ORIN, **here))) is fits


def test_the_engine_that_fits_is_found_among_others(add):
    add(dataclasses.replace(ORIN, compute=("8.6",)))
    spec, record = find_engines(add(ORIN), "fp32", dataclasses.replace(ORIN, driver="12.8"))
    assert spec.fingerprint == "tensorrt-10.3.0-sm87"
    assert record.fingerprint == ORIN


def test_an_engine_of_another_device_is_refused_with_what_differs_and_the_command(add):
    here = dataclasses.replace(ORIN, library="10.13.3", compute=("8.6",), jetpack=None)
    with pytest.raises(DeviceMismatchError) as caught:
        find_engines(add(), "fp32", here)
    assert caught.value.exit_code == 5
    assert "built for tensorrt 10.3.0, here 10.13.3" in caught.value.message
    assert "built for compute capability 8.7, here 8.6" in caught.value.message
    assert "36.4.3, here none" in caught.value.message
    assert "tv-export engine" in caught.value.hint
    assert caught.value.hint.endswith("--precision fp32 --target tensorrt --rebuild")


@pytest.mark.parametrize(
    ("built", "options"),
    [
        (DESKTOP, "--target tensorrt-rtx --compute-capability 8.6 --compute-capability 12.0 --rebuild"),
        (dataclasses.replace(DESKTOP, compatibility="ampere+"), "--target tensorrt-rtx --rebuild"),
        (
            dataclasses.replace(ORIN, compatibility="ampere+"),
            "--target tensorrt --hardware-compatibility ampere+ --rebuild",
        ),
        (
            dataclasses.replace(ORIN, version_compatible=True),
            "--target tensorrt --version-compatible --rebuild",
        ),
    ],
)
def test_the_command_that_rebuilds_makes_the_same_fingerprint(tiny_bundle, built, options):
    assert rebuild_command(Bundle(tiny_bundle), "int8", built).endswith(f"--precision int8 {options}")
    assert rebuild_command(Bundle(tiny_bundle), "int8", built, dla_core=1).endswith("--dla 1 --rebuild")


def test_an_engine_for_this_very_gpu_goes_before_one_for_many(add):
    add(dataclasses.replace(ORIN, compatibility="ampere+", compute=("8.0",)))
    assert find_engines(add(ORIN), "fp32", ORIN)[0].fingerprint == "tensorrt-10.3.0-sm87"


def test_a_bundle_without_engines_says_how_to_build_them(tiny_bundle):
    here = Fingerprint(kind="tensorrt-rtx", library="1.7.1.116", compute=("8.9",))
    with pytest.raises(DeviceMismatchError, match="no tensorrt-rtx engines") as caught:
        find_engines(Bundle(tiny_bundle), "fp32", here)
    assert "--compute-capability 8.9" in caught.value.hint


def test_an_engine_of_an_older_graph_is_refused(add):
    def older(record):
        first = dataclasses.replace(record.stages["latent"], graph_sha256="0" * 64)
        return dataclasses.replace(record, stages={**record.stages, "latent": first})

    with pytest.raises(IntegrityError, match=r"latent\.plan: built from a graph 000000000000…") as caught:
        find_engines(add(edit=older), "fp32", ORIN)
    assert "--rebuild" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value.update(schema_version=2), "reads version 1, found 2"),
        (lambda value: value.update(extra=1), "unknown field"),
        (lambda value: value["fingerprint"].update(compute=[]), "no sensible fingerprint"),
        (lambda value: value["fingerprint"].update(compute=["8.7; rm"]), "no sensible fingerprint"),
        (lambda value: value["fingerprint"].update(kind="magic"), "no sensible fingerprint"),
        (lambda value: value["fingerprint"].update(library="9.0"), "the manifest says"),
        (lambda value: value.pop("stages"), "'stages' is missing"),
        (lambda value: value.update(dla_core="0"), "dla_core"),
    ],
)
def test_a_wrong_engine_json_is_refused_with_the_field(add, tiny_files, change, words):
    value = json.loads(bytes_from_record(record_of(manifest_from_bytes(tiny_files["manifest.json"]))))
    change(value)
    with pytest.raises(IntegrityError, match=words):
        find_engines(add(json_bytes=json.dumps(value).encode()), "fp32", ORIN)


def test_a_folder_without_its_engine_json_is_refused(add):
    bundle = add()
    name = f"{engine_folder(ORIN, 'fp32')}/engine.json"
    files = {file: spec for file, spec in bundle.manifest.files.items() if file != name}
    (bundle.root / name).unlink()
    write_manifest(dataclasses.replace(bundle.manifest, files=files), bundle.root)
    with pytest.raises(IntegrityError, match=r"engine\.json: missing"):
        find_engines(Bundle(bundle.root), "fp32", ORIN)


def test_engine_json_comes_back_as_it_was_written(tiny_files):
    record = record_of(manifest_from_bytes(tiny_files["manifest.json"]))
    assert record_from_bytes(bytes_from_record(record), "engine.json") == record


@given(st.binary(max_size=300))
def test_any_bytes_as_engine_json_are_an_integrity_error(data):
    with pytest.raises(IntegrityError):
        record_from_bytes(data, "engine.json")


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n", "36.4.3"),
        ("# R35 (release), REVISION: 6.1, GCID: 1\n", "35.6.1"),
        ("something else", None),
    ],
)
def test_a_jetson_tells_its_release(tmp_path, text, release):
    (tmp_path / "release").write_text(text)
    assert jetpack_release(tmp_path / "release") == release


def test_a_machine_that_is_no_jetson_has_no_release(tmp_path):
    assert jetpack_release(tmp_path / "none") is None


def test_the_pipeline_refuses_threads_for_an_engine(tiny_bundle):
    with pytest.raises(UsageError, match="threads"):
        TextToImage.load(tiny_bundle, backend="tensorrt-rtx", threads=2)
