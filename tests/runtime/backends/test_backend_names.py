"""Inputs and outputs keep the graph's names, whatever a backend takes for the same tensor."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from textual_vision.runtime.backends.session import SessionOptions, open_session

OUTPUTS = ("y", "b", "a")


def graph_with_many_names():
    """Casts and identities that do nothing, so that inputs and outputs get further names."""
    nodes = [
        helper.make_node("Cast", ["x"], ["aa"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["aa"], ["ab"]),
        helper.make_node("Add", ["ab", "x"], ["ac"]),
        helper.make_node("Identity", ["ac"], ["y"]),
        helper.make_node("Identity", ["ac"], ["b"]),
        helper.make_node("Mul", ["y", "y"], ["a"]),
    ]
    x, *outputs = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in ("x", *OUTPUTS))
    graph = helper.make_graph(nodes, "names", [x], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_tensor_of_several_names_is_given_by_the_graphs_own(backend):
    pytest.importorskip(backend)
    session = open_session(graph_with_many_names(), SessionOptions(backend=backend, name="names.onnx"))
    assert session.inputs == {"x"} and session.outputs == set(OUTPUTS)
    x = np.float32([[1, 2]])
    for _ in range(6):  # a backend may compile anew for sizes that come often
        found = session.run({"x": x})
        assert set(found) == set(OUTPUTS)
        np.testing.assert_array_equal(found["y"], 2 * x)
        np.testing.assert_array_equal(found["b"], 2 * x)
        np.testing.assert_array_equal(found["a"], 4 * x * x)
