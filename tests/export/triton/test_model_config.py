"""config.pbtxt, read by Triton's own schema of model_config."""

import dataclasses

import pytest

from textual_vision.export.triton.model_config import front_config, stage_config
from textual_vision.export.triton.options import TritonOptions
from textual_vision.export.triton.text_format import text_from_fields
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.generation.specs import LabelSpec, ParameterSpec
from textual_vision.runtime.manifest import StageSpec, TensorSpec

GUIDANCE = ParameterSpec(name="guidance_scale", default=3.0, minimum=1.0, maximum=9.0)


@pytest.fixture
def manifest(tiny_bundle):
    return Bundle(tiny_bundle).manifest


def parsed(config):
    """The config by Triton's schema; unknown fields and values of wrong types are errors."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    return text_format.Parse(config.decode("utf-8"), schema.ModelConfig())


def dtypes_of(stage):
    return {spec.name: spec.dtype for spec in (*stage.inputs, *stage.outputs)}


def tensors(fields):
    return {one.name: (one.data_type, list(one.dims)) for one in fields}


def test_the_front_takes_prompt_and_seed_and_gives_picture_and_codes(manifest):
    from_schema = parsed(front_config(manifest, TritonOptions(max_batch=4, instances=3)))
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    assert (from_schema.name, from_schema.backend, from_schema.max_batch_size) == (
        "text_to_image",
        "python",
        4,
    )
    assert tensors(from_schema.input) == {
        "prompt": (schema.TYPE_STRING, [1]),
        "seed": (schema.TYPE_UINT64, [1]),
        "count": (schema.TYPE_INT32, [1]),
    }
    assert [one.optional for one in from_schema.input] == [False, False, True]
    assert tensors(from_schema.output) == {
        "image": (schema.TYPE_UINT8, [8, 8, 3]),
        "codes": (schema.TYPE_INT64, [4, 4]),
        "warnings": (schema.TYPE_STRING, [1]),
    }
    (group,) = from_schema.instance_group
    assert (group.kind, group.count) == (schema.ModelInstanceGroup.KIND_CPU, 3)
    assert from_schema.version_policy.HasField("all")
    assert from_schema.dynamic_batching.default_queue_policy.max_queue_size == 1024


def test_parameters_are_optional_inputs_and_labels_are_prompts(manifest):
    labels = dataclasses.replace(
        manifest, text=None, labels=LabelSpec(names=("cat", "dog")), parameters=(GUIDANCE,)
    )
    config = parsed(front_config(labels, TritonOptions()))
    assert [one.name for one in config.input] == ["prompt", "seed", "count", "guidance_scale"]
    assert config.input[3].optional
    assert [one.name for one in config.output] == ["image", "codes"]
    none = dataclasses.replace(manifest, text=None)
    assert [one.name for one in parsed(front_config(none, TritonOptions())).input] == ["seed", "count"]


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize("stages", ["onnxruntime", "tensorrt"])
def test_a_stage_is_a_model_of_its_backend(manifest, stages, kind):
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    options = TritonOptions(stages=stages, kind=kind, max_batch=4, instances=2)
    stage = manifest.stages[1]
    config = parsed(stage_config(manifest, stage, options, dtypes_of(stage), cached=True))
    assert (config.name, config.backend, config.max_batch_size) == ("text_to_image_latent", stages, 4)
    assert config.default_model_filename == {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}[stages]
    assert tensors(config.input) == {
        "text": (schema.TYPE_FP32, [-1, 8]),
        "attention_mask": (schema.TYPE_INT64, [-1]),
        "noise": (schema.TYPE_FP32, [6]),
    }
    assert tensors(config.output) == {"codes": (schema.TYPE_INT64, [4, 4])}
    assert schema.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind) == f"KIND_{kind.upper()}"
    assert config.response_cache.enable
    assert [one.batch_size for one in config.model_warmup] == [1, 4]
    assert list(config.model_warmup[0].inputs["text"].dims) == [12, 8]
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    expected = [{"use_tf32": "0"}] if (stages, kind) == ("onnxruntime", "gpu") else []
    assert [dict(one.parameters) for one in accelerators] == expected


def test_a_number_for_each_row_has_a_dimension_that_the_file_lacks(manifest):
    lengths = TensorSpec(name="lengths", dtype="int64", shape=("batch",))
    stage = StageSpec(name="text_encoder", inputs=(lengths,), outputs=manifest.stages[0].outputs)
    config = parsed(
        stage_config(manifest, stage, TritonOptions(stages="onnxruntime"), dtypes_of(stage), cached=False)
    )
    assert list(config.input[0].dims) == [1]
    assert config.input[0].HasField("reshape") and not config.input[0].reshape.shape
    assert not config.response_cache.enable


def test_nothing_warms_up_a_size_that_nothing_tells(manifest):
    wide = TensorSpec(name="x", dtype="float32", shape=("batch", "width"))
    stage = StageSpec(name="any", inputs=(wide,), outputs=(wide,))
    config = parsed(
        stage_config(manifest, stage, TritonOptions(stages="onnxruntime"), dtypes_of(stage), cached=False)
    )
    assert not config.model_warmup


def test_the_types_of_an_engine_are_those_of_its_config(manifest):
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    stage = manifest.stages[1]
    options = TritonOptions(stages="tensorrt", kind="gpu")
    config = parsed(
        stage_config(manifest, stage, options, {**dtypes_of(stage), "codes": "int32"}, cached=False)
    )
    assert tensors(config.output) == {"codes": (schema.TYPE_INT32, [4, 4])}


def test_text_is_written_with_its_quotes_escaped():
    assert text_from_fields({"name": 'a "b" \\', "one": {"two": [1, 2]}, "none": []}) == (
        'name: "a \\"b\\" \\\\"\none {\n  two: [1, 2]\n}\n'
    )
