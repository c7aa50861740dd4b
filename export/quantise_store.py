"""Constants that stay float, in half the bytes where not one bit is lost."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALLEST_CONSTANT = 4096  # values: below it the node costs more than it saves


def store_in_half(graph: onnx.ModelProto) -> None:
    """Stores large float32 constants as float16 with a Cast, in place, where every value is one of float16's.

    Checkpoints keep matrices in half precision, so what no rewrite has touched still is. Backends fold the
    Cast when they load the graph.
    """
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST_CONSTANT:
            continue
        values = np.asarray(numpy_helper.to_array(tensor))
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            cast = helper.make_node("Cast", [tensor.name], [name], name=f"{name}.cast", to=TensorProto.FLOAT)
            casts.append(cast)
    nodes = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*casts, *nodes])
