"""Real engines of the shipped model: every stage in every precision, by TensorRT-RTX."""

import pytest

from textual_vision.export.build.build import build_bundle
from textual_vision.export.build.options import BuildOptions
from textual_vision.export.tensorrt.builder import EngineSettings, build_plan
from textual_vision.export.tensorrt.engines import add_engines
from textual_vision.export.tensorrt.layer_table import product_nodes
from textual_vision.export.tensorrt.options import EngineBuildOptions
from textual_vision.export.tensorrt.targets import profile_of
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.engines import read_record
from textual_vision.runtime.errors import UsageError
from textual_vision.training.checkpoint import find_checkpoint

PRECISIONS = ("fp32", "fp16", "int8")
# Every layer that can be in int8 is: what it costs is not the engine's business.
ANYTHING = "code_agreement>=0,psnr>=0,generator_psnr>=0"

pytestmark = pytest.mark.slow
tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: no real builds")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    try:
        find_checkpoint("emoji")
    except UsageError:
        pytest.skip("no model is shipped in this copy")
    place = tmp_path_factory.mktemp("shipped") / "emoji.tv"
    options = BuildOptions(
        precisions=PRECISIONS, target="tensorrt", int8_tolerance=ANYTHING, allow_failing=True
    )
    build_bundle("emoji", place, options)
    return place


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_stage_of_the_shipped_model_becomes_an_engine_in_its_precision(shipped, precision):
    settings = EngineSettings(precision=precision, compute=("8.6",))
    options = EngineBuildOptions(kind="tensorrt-rtx", settings=settings)
    result = add_engines(shipped, options, on_progress=lambda text: None)
    bundle = Bundle(shipped)
    spec = next(spec for spec in bundle.manifest.engines if spec.precision == precision)
    record = read_record(bundle, spec)
    for built in result.stages:
        stage = record.stages[built.stage]
        operators, meant = product_nodes(bundle.read(stage.graph))
        assert set(stage.layers) == set(operators), f"{built.stage}: products that the engine does not name"
        in_int8 = {name for name, dtype in stage.layers.items() if dtype == "int8"}
        # More than meant where both factors are rows of an int8 table, moved about after they were looked up.
        assert meant <= in_int8
        # A stage may be stored in int8 and computed in float: then it means no layer.
        assert not in_int8 or precision == "int8"
    generator = record.stages["generator"]
    assert generator.dtypes["image"] == "UINT8"
    assert generator.dtypes["codes"] == "INT64"
    if precision == "fp16":
        assert generator.dtype_counts.fp16 > generator.dtype_counts.float32
    if precision == "int8":
        assert generator.dtype_counts.int8 > generator.dtype_counts.float32


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_graph_of_the_bundle_is_built_as_it_lies_there(shipped, precision):
    bundle = Bundle(shipped)
    manifest = bundle.manifest
    for stage in (*manifest.stages, manifest.merged):
        file = manifest.precisions[precision].files[stage.name]
        profile = profile_of(stage, manifest.batch, manifest.text)
        settings = EngineSettings(precision=precision, compute=("8.6",))
        plan = build_plan(
            tensorrt_rtx, bundle.read(file), file, profile, settings, on_progress=lambda text: None
        )
        assert set(plan.dtypes) == {spec.name for spec in (*stage.inputs, *stage.outputs)}
