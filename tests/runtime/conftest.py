"""A bundle with engines, a counting libcudart and the library's pretended versions: running without a GPU."""

import dataclasses
import hashlib
import json

import fake_cudart
import pytest
from fake_plans import kind_of, plan_of

from textual_vision.runtime.backends.tensorrt.cudart import load_cudart
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.engines import (
    EngineRecord,
    Fingerprint,
    ShapeRange,
    StageEngine,
    bytes_from_record,
    engine_folder,
)
from textual_vision.runtime.manifest import EngineSpec, FileSpec, manifest_from_bytes, write_manifest


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
        about = {
            "kind": kind_of(version),
            "library": version.removeprefix("rtx-"),
            "compute": ("8.6",),
            **changed,
        }
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
                dtype_counts=None,
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
