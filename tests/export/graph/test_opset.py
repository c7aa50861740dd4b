"""Graphs of opset 17: what older tools would not read."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from textual_vision.export.graph.opset import check, downgrade_to_17, expand_partial_shapes
from textual_vision.runtime.errors import UsageError

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7
AXES = {"axes": np.array([-1])}


def model(nodes, constants=(), opset=18, kind=TensorProto.FLOAT) -> onnx.ModelProto:
    """From x, float32 (batch, 3, 4), to y."""
    graph = helper.make_graph(
        nodes,
        "some",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 4])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(value, name) for name, value in dict(constants).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def result(given: onnx.ModelProto) -> np.ndarray:
    return ReferenceEvaluator(given).run(None, {"x": X})[0]


def lowered(given: onnx.ModelProto) -> onnx.ModelProto:
    found = ir.from_proto(given)
    downgrade_to_17(found)
    return ir.to_proto(found)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([helper.make_node("ReduceL2", ["x", "axes"], ["y"], keepdims=1)], AXES),
        ([helper.make_node("ReduceMax", ["x", "axes"], ["y"], keepdims=0, noop_with_empty_axes=0)], AXES),
        ([helper.make_node("ReduceMean", ["x"], ["y"])], {}),
        ([helper.make_node("ReduceSum", ["x", "axes"], ["y"])], AXES),
        ([helper.make_node("Split", ["x"], ["a", "y"], axis=2, num_outputs=2)], {}),
        (
            [helper.make_node("Pad", ["x", "pads", "value"], ["y"])],
            {"pads": np.array([0, 0, 0, 0, 1, 2]), "value": np.float32(3)},
        ),
        (
            [helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"])],
            {"pads": np.array([1, 2, 3, 4]), "axes": np.array([-1, 1])},
        ),
        (
            [
                helper.make_node(
                    "Resize",
                    ["x", "", "scales"],
                    ["y"],
                    mode="nearest",
                    antialias=0,
                    keep_aspect_ratio_policy="stretch",
                    axes=[0, 1, 2],
                )
            ],
            {"scales": np.array([1, 2, 2], np.float32)},
        ),
        (
            [helper.make_node("LpPool", ["x"], ["y"], kernel_shape=[2], p=2, ceil_mode=0, dilations=[1])],
            {},
        ),
    ],
)
def test_what_opset_18_says_otherwise_gives_the_same_in_17(nodes, constants):
    given = model(nodes, constants)
    found = lowered(given)
    assert found.opset_import[0].version == 17
    check(found)
    assert np.array_equal(result(found), result(given))


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Mish", ["x"], ["y"], name="some/Mish")],
        [helper.make_node("Split", ["x"], ["a", "y"], axis=1, num_outputs=2, name="some/Split")],
        [helper.make_node("Split", ["x"], ["a", "y"], axis=0, num_outputs=2, name="some/Split")],
        [
            helper.make_node("Neg", ["axes"], ["computed"]),
            helper.make_node("ReduceMax", ["x", "computed"], ["y"], name="some/ReduceMax"),
        ],
    ],
)
def test_what_17_has_no_word_for_is_named(nodes):
    with pytest.raises(UsageError, match=r"opset 17 cannot say .*'some/") as error:
        lowered(model(nodes, AXES))
    assert "--opset 18" in error.value.hint


@pytest.mark.parametrize("part", [{"start": 1}, {"start": 1, "end": 2}, {"start": -1}, {}])
def test_shapes_are_written_whole(part):
    node = helper.make_node("Shape", ["x"], ["y"], name="some/Shape", **part)
    given = model([node], opset=17, kind=TensorProto.INT64)
    found = ir.from_proto(given)
    expand_partial_shapes(found)
    written = ir.to_proto(found)
    check(written)
    assert result(written).tolist() == result(given).tolist()
    assert not any(node.op_type == "Shape" and node.attribute for node in written.graph.node)
