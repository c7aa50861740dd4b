"""Constants of a graph: their values, the nodes that read them, new ones."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper


def initializer(model: ir.Model, name: str, value: np.ndarray) -> ir.Value:
    """A new constant of the graph."""
    fresh = ir.Value(
        name=name, type=ir.TensorType(ir.DataType.from_numpy(value.dtype)), shape=ir.Shape(value.shape)
    )
    fresh.const_value = ir.tensor(np.ascontiguousarray(value), name=name)
    model.graph.register_initializer(fresh)
    return fresh


def constant_proto(graph: onnx.ModelProto, name: str) -> onnx.TensorProto:
    """The graph's constant called `name`."""
    return next(tensor for tensor in graph.graph.initializer if tensor.name == name)


def array_of(model: onnx.ModelProto, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A constant's values."""
    return np.asarray(numpy_helper.to_array(constant_proto(model, name)))


def consumers_of(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Tensor → the nodes that read it."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    return readers
