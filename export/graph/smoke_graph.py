"""A graph of two nodes, y = 2x + 1, to see whether a backend really works."""

from __future__ import annotations


def smoke_graph() -> bytes:
    """x float32 (1, 4) → y float32 (1, 4), serialized, opset 17."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    constants = {"two": np.array(2, np.float32), "one": np.array(1, np.float32)}
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["twice"]), helper.make_node("Add", ["twice", "one"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data
