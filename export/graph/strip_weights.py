"""Graphs looked at and added to without their weights being copied about, which takes most of the time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx

LARGEST_SHAPE = 1024  # values of a constant that may be a shape, or indices that shapes are made of


def expose_tensors(graph: bytes, names: Iterable[str]) -> bytes:
    """The serialized graph with `names`, which it does not give already, as outputs of types to be inferred.

    What lists of two messages hold that follow each other, protobuf reads as one list.
    """
    more = onnx.ModelProto()
    more.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    added: bytes = more.SerializeToString()
    return graph + added


def strip_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with sizes alone of its large constants, whose values tell nothing of shapes and types."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    light.graph.value_info.extend(model.graph.value_info)
    for tensor in model.graph.initializer:
        large = np.prod(tensor.dims) > LARGEST_SHAPE
        sizes = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        light.graph.initializer.append(sizes if large else tensor)
    return light
