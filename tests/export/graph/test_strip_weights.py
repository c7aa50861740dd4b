"""Graphs are added to and looked at without their weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from textual_vision.export.graph.strip_weights import LARGEST_SHAPE, expose_tensors, strip_weights
from textual_vision.runtime.backends.session import SessionOptions, open_session


def _graph() -> onnx.ModelProto:
    """y = (x · w) reshaped, with a name for each value on the way."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Reshape", ["product", "shape"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.ones((4, LARGEST_SHAPE), np.float32), "w"),
        numpy_helper.from_array(np.array([0, 2, -1]), "shape"),
    ]
    given = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])]
    graph = helper.make_graph(nodes, "graph", given, [onnx.ValueInfoProto(name="y")], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_further_outputs_are_given_beside_the_graphs_own(backend: str) -> None:
    pytest.importorskip(backend)
    exposed = expose_tensors(_graph().SerializeToString(), ["product"])
    given = open_session(exposed, SessionOptions(backend=backend, name="exposed", trusted=True)).run(
        {"x": np.ones((3, 4), np.float32)}
    )
    assert given["product"].shape == (3, LARGEST_SHAPE)
    assert given["y"].shape == (3, 2, LARGEST_SHAPE // 2)


def test_what_is_read_back_is_the_graph_and_its_outputs() -> None:
    read = onnx.load_from_string(expose_tensors(_graph().SerializeToString(), ["product"]))
    assert [output.name for output in read.graph.output] == ["y", "product"]
    del read.graph.output[1]
    assert read == _graph()


def test_shapes_are_known_without_the_values_of_large_constants() -> None:
    light = strip_weights(_graph())
    assert light.ByteSize() < 1024 < _graph().ByteSize()
    inferred = onnx.shape_inference.infer_shapes(light, strict_mode=True)
    sizes = [dim.dim_value for dim in inferred.graph.output[0].type.tensor_type.shape.dim]
    assert sizes[1:] == [2, LARGEST_SHAPE // 2]
