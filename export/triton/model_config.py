"""config.pbtxt of the served model and of each stage.

The fields are those of model_config.proto: https://github.com/triton-inference-server/common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual_vision.export.triton.options import TritonOptions
from textual_vision.export.triton.text_format import Constant, entries, text_from_fields
from textual_vision.runtime.generation.consistency import CODES
from textual_vision.runtime.manifest import Manifest, StageSpec, TensorSpec
from textual_vision.runtime.triton.spec import COUNT, IMAGE, PROMPT, SEED, WARNINGS

TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "bool": "TYPE_BOOL",
}
STAGE_FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
QUEUE_LIMIT = 1024  # requests; more are refused at once as unavailable
VARIABLE = -1
ONE: list[int] = [1]
Fields = dict[str, object]


def front_config(manifest: Manifest, options: TritonOptions) -> bytes:
    """config.pbtxt of the model that takes prompts and seeds and gives pictures."""
    # Where other models compute, this one only reads prompts and draws noise: on the CPU.
    kind = options.kind if options.stages == "python" else "cpu"
    fields: Fields = {
        "name": options.name,
        "backend": "python",
        "max_batch_size": options.max_batch,
        **front_interface(manifest),
        **_scheduling(kind, options.instances),
    }
    return text_from_fields(fields).encode("utf-8")


def front_interface(manifest: Manifest) -> dict[str, list[Fields]]:
    """The inputs and outputs of the served model; the batch is not part of the dimensions."""
    inputs: list[Fields] = []
    if manifest.text is not None or manifest.labels is not None:
        inputs.append(_tensor(PROMPT, "TYPE_STRING", ONE))
    inputs.append(_tensor(SEED, "TYPE_UINT64", ONE))
    inputs.append({**_tensor(COUNT, "TYPE_INT32", ONE), "optional": True})
    inputs += [{**_tensor(spec.name, "TYPE_FP32", ONE), "optional": True} for spec in manifest.parameters]
    size = manifest.image
    outputs = [_tensor(IMAGE, "TYPE_UINT8", [size.height, size.width, size.channels])]
    given = [tensor for stage in manifest.stages for tensor in stage.outputs]
    outputs += [_tensor(CODES, "TYPE_INT64", _dimensions(one)) for one in given if one.name == CODES]
    if manifest.text is not None:
        outputs.append(_tensor(WARNINGS, "TYPE_STRING", ONE))
    return {"input": inputs, "output": outputs}


def stage_config(
    manifest: Manifest, stage: StageSpec, options: TritonOptions, dtypes: Mapping[str, str], *, cached: bool
) -> bytes:
    """config.pbtxt of one stage as a model of `options.stages`; `dtypes` are those of its file's tensors."""
    fields: Fields = {
        "name": stage_model_name(options.name, stage.name),
        "backend": options.stages,
        "default_model_filename": STAGE_FILES[options.stages],
        "max_batch_size": options.max_batch,
        **stage_interface(stage, dtypes),
        **_scheduling(options.kind, options.instances),
    }
    if options.stages == "onnxruntime" and options.kind == "gpu":
        # By default, CUDA rounds factors to TF32 (10 bits), which changes codes.
        accelerator = {"name": "cuda", "parameters": entries({"use_tf32": "0"})}
        fields["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}
    if cached:
        fields["response_cache"] = {"enable": True}
    if warm_up := _warm_up(manifest, stage, options.max_batch, dtypes):
        fields["model_warmup"] = warm_up
    return text_from_fields(fields).encode("utf-8")


def stage_interface(stage: StageSpec, dtypes: Mapping[str, str]) -> dict[str, list[Fields]]:
    """The inputs and outputs of a stage; a tensor with one number for each row has one dimension there."""
    return {
        "input": [_stage_tensor(spec, dtypes) for spec in stage.inputs],
        "output": [_stage_tensor(spec, dtypes) for spec in stage.outputs],
    }


def stage_model_name(front: str, stage: str) -> str:
    """The name of a stage's model in the repository."""
    return f"{front}_{stage}"


def _tensor(name: str, type_name: str, dimensions: Sequence[int]) -> Fields:
    return {"name": name, "data_type": Constant(type_name), "dims": list(dimensions)}


def _stage_tensor(spec: TensorSpec, dtypes: Mapping[str, str]) -> Fields:
    dimensions = _dimensions(spec)
    fields = _tensor(spec.name, TYPES[dtypes[spec.name]], dimensions or ONE)
    return fields if dimensions else {**fields, "reshape": {"shape": []}}


def _dimensions(spec: TensorSpec) -> list[int]:
    """The dimensions after the batch."""
    return [VARIABLE if isinstance(size, str) else size for size in spec.shape[1:]]


def _scheduling(kind: str, instances: int) -> Fields:
    """Every version is served; requests wait in one queue, and those that come together run together."""
    return {
        "version_policy": {"all": {}},
        "instance_group": [{"kind": Constant(f"KIND_{kind.upper()}"), "count": instances}],
        "dynamic_batching": {"default_queue_policy": {"max_queue_size": QUEUE_LIMIT}},
    }


def _warm_up(manifest: Manifest, stage: StageSpec, max_batch: int, dtypes: Mapping[str, str]) -> list[Fields]:
    """One run of zeros with the smallest and one with the largest batch, for the longest prompt."""
    known = {} if manifest.text is None else {"tokens": manifest.text.max_tokens}
    inputs = {}
    for spec in stage.inputs:
        sizes = [known.get(size, VARIABLE) if isinstance(size, str) else size for size in spec.shape[1:]]
        if VARIABLE in sizes:
            return []  # a dimension whose sizes nothing tells
        inputs[spec.name] = {
            "data_type": Constant(TYPES[dtypes[spec.name]]),
            "dims": sizes or ONE,
            "zero_data": True,
        }
    return [
        {"name": f"batch {size}", "batch_size": size, "inputs": entries(inputs)}
        for size in sorted({1, max_batch})
    ]
