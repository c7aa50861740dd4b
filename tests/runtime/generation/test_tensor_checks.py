"""What a stage gives is what the manifest says, or the next one never sees it."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.generation.tensor_checks import check_outputs, sizes_of
from textual_vision.runtime.manifest import StageSpec, TensorSpec
from textual_vision.runtime.pipeline import TextToImage

STAGE = StageSpec(
    name="latent",
    inputs=(
        TensorSpec(name="text", dtype="float32", shape=("batch", "tokens", 4)),
        TensorSpec(name="mask", dtype="int64", shape=("batch", "tokens")),
    ),
    outputs=(
        TensorSpec(name="codes", dtype="int64", shape=("batch", 2), limit=16),
        TensorSpec(name="rest", dtype="float32", shape=("batch", "tokens", "other")),
    ),
)


def given(**changed):
    return {"text": np.zeros((3, 5, 4), np.float32), "mask": np.ones((3, 5), np.int64), **changed}


def test_sizes_are_found_in_the_inputs():
    assert sizes_of(STAGE, given()) == {"batch": 3, "tokens": 5}


@pytest.mark.parametrize(
    "changed",
    [
        {"mask": np.ones((3, 6), np.int64)},
        {"mask": np.ones((2, 5), np.int64)},
        {"mask": np.ones((3, 5), np.int32)},
        {"text": np.zeros((3, 5, 3), np.float32)},
        {"text": np.zeros((3, 5), np.float32)},
    ],
)
def test_inputs_that_do_not_fit_each_other_are_refused(changed):
    with pytest.raises(IntegrityError, match=r"stage .latent.: .(text|mask). is"):
        sizes_of(STAGE, given(**changed))


def outputs(codes=None, rest=None):
    codes = codes if codes is not None else np.array([[0, 15]] * 3)
    return {"codes": codes, "rest": rest if rest is not None else np.zeros((3, 5, 7), np.float32)}


def test_outputs_as_the_manifest_says_pass():
    check_outputs(STAGE, outputs(), {"batch": 3, "tokens": 5})


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"codes": np.array([[0, 16]] * 3)}, "'codes' has values from 0 to 16, not from 0 to 15"),
        ({"codes": np.array([[-1, 0]] * 3)}, "'codes' has values from -1 to 0"),
        ({"codes": np.zeros((1, 2), np.int64)}, r"'codes' is int64 \[1, 2\], not int64 \[3, 2\]"),
        ({"codes": np.zeros((3, 2, 1), np.int64)}, "'codes' is"),
        ({"codes": np.zeros((3, 2), np.float32)}, r"'codes' is float32 \[3, 2\]"),
        ({"rest": np.zeros((3, 4, 7), np.float32)}, "'rest' is"),
        ({"rest": np.zeros((3, 5), np.float32)}, "'rest' is"),
    ],
)
def test_outputs_that_are_otherwise_are_refused(found, message):
    with pytest.raises(IntegrityError, match=message):
        check_outputs(STAGE, outputs(**found), {"batch": 3, "tokens": 5})


def end_with(graph, name, op_type, constant):
    """Let the graph's output `name` be what `op_type` makes of it and a constant."""
    node = next(node for node in graph.node if name in node.output)
    node.output[list(node.output).index(name)] = "before"
    graph.initializer.append(numpy_helper.from_array(constant, "constant"))
    graph.node.append(helper.make_node(op_type, ["before", "constant"], [name]))
    del next(out for out in graph.output if out.name == name).type.tensor_type.shape.dim[:]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("stage", "name", "op_type", "constant", "message"),
    [
        ("text_encoder", "attention", "Gather", np.array([0]), "'attention' is"),
        ("latent", "codes", "Gather", np.array([0]), "'codes' is"),
        ("latent", "codes", "Add", np.array(1000), "'codes' has values from"),
        ("latent", "codes", "Sub", np.array(1000), "'codes' has values from -9"),
    ],
)
def test_a_graph_that_gives_something_else_is_refused(
    tiny_bundle, replace_file, backend, stage, name, op_type, constant, message
):
    file = f"onnx/fp32/{stage}.onnx"
    model = onnx.load_from_string((tiny_bundle / file).read_bytes())
    end_with(model.graph, name, op_type, constant)
    replace_file(file, model.SerializeToString())
    drawn = TextToImage.load(tiny_bundle, backend=backend)
    with pytest.raises(IntegrityError, match=message):
        drawn.generate(["dog", "cat"], [1, 2])


def test_pictures_of_another_type_than_callers_are_promised_are_refused(edit_manifest):
    def as_floats(manifest):
        manifest["stages"][2]["outputs"][0]["dtype"] = "float32"

    with pytest.raises(IntegrityError, match="'generator' gives 'image' as float32"):
        TextToImage.load(edit_manifest(as_floats))
