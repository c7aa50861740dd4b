"""Count the multiply-accumulates of a graph from the shapes of its tensors at run time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from textual_vision.export.graph.strip_weights import expose_tensors
from textual_vision.runtime.backends.session import Array, SessionOptions, open_session

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "ConvInteger", "QLinearConv"})
MATRIX_PRODUCTS = frozenset({"MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"})
# Each operand of these is followed by its scale and its zero point.
QLINEAR = frozenset({"QLinearConv", "QLinearMatMul"})

Shape = tuple[int, ...]


def multiply_accumulates(graph: bytes, inputs: Mapping[str, Array], backend: str) -> int:
    """Return the number of all convolutions and matrix products of `graph`.

    `backend` runs the graph on `inputs` to find the shapes.
    """
    model = onnx.load_from_string(graph)
    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in model.graph.initializer}
    shapes |= {name: value.shape for name, value in inputs.items()}
    nodes = [node for node in model.graph.node if node.op_type in CONVOLUTIONS | MATRIX_PRODUCTS]
    needed = {name for node in nodes for name in (*_operands(node), node.output[0])} - set(shapes)
    options = SessionOptions(backend=backend, name="graph with its products exposed", trusted=True)
    exposed = expose_tensors(graph, sorted(needed - {output.name for output in model.graph.output}))
    outputs = open_session(exposed, options).run(inputs)
    shapes |= {name: outputs[name].shape for name in needed}
    return sum(_macs_of_node(node, shapes) for node in nodes)


def _operands(node: onnx.NodeProto) -> tuple[str, str]:
    second = 3 if node.op_type in QLINEAR else 1
    return node.input[0], node.input[second]


def _macs_of_node(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    first, second = (shapes[name] for name in _operands(node))
    output = shapes[node.output[0]]
    if node.op_type == "ConvTranspose":  # each input value is multiplied by its channel's weights
        return math.prod(first) * math.prod(second[1:])
    if node.op_type in CONVOLUTIONS:  # each output value sums a window of its group's channels
        return math.prod(output) * math.prod(second[1:])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(output) * first[0 if transposed else -1]
