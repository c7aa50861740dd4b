"""Constants of a graph: their values, the nodes that read them, new ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

DERIVED = "derived constants"  # key of a value's `meta`: role → the constant made of the value


def initializer(model: ir.Model, name: str, value: np.ndarray) -> ir.Value:
    """Add a constant to the graph, under `name` or, where that is taken, `name` with a number; return it."""
    name = fresh_name(model.graph, name)
    fresh = ir.Value(
        name=name, type=ir.TensorType(ir.DataType.from_numpy(value.dtype)), shape=ir.Shape(value.shape)
    )
    fresh.const_value = ir.tensor(np.ascontiguousarray(value), name=name)
    model.graph.register_initializer(fresh)
    return fresh


def derived_constant(op: Any, source: ir.Value, role: str, make: Callable[[], np.ndarray]) -> ir.Value:
    """Return the constant that a rewrite makes of the constant `source` for `role`, such as "scaled by 2".

    `make` computes it the first time. Two layers that share `source`, or one layer that is applied twice,
    share the result. `op` is the builder that onnxscript passes to a rewrite.
    """
    known: dict[str, ir.Value] = source.meta.setdefault(DERIVED, {})
    made = known.get(role)
    if made is None or (made.graph is not None and made.graph.initializers.get(made.name) is not made):
        name = f"{source.name}_{role.replace(' ', '_')}"
        name = name if source.graph is None else fresh_name(source.graph, name)
        made = known[role] = op.initializer(ir.tensor(np.ascontiguousarray(make())), name=name)
    return made


def fresh_name(graph: ir.Graph, name: str) -> str:
    """Return `name`, or `name_2`, `name_3` … where a constant or an input of the graph has it already."""
    taken = {*graph.initializers, *(value.name for value in graph.inputs)}
    fresh, count = name, 1
    while fresh in taken:
        count += 1
        fresh = f"{name}_{count}"
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
