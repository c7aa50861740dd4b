"""Tables of rows in int8: a scale for every row, and lookups that stay in int8."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from textual_vision.export.graph.constants import constant_proto
from textual_vision.export.graph.strip_weights import strip_weights
from textual_vision.export.int8.layers import TABLE, QuantizableLayer, quantizable_layers

LARGE_TABLE = 1 << 16  # values: smaller tables are exact enough with one scale, and spare the second lookup
SMALLEST_ROW = 1e-12
SCALED = ".scaled"  # after the name of what was looked up: with its magnitude again


def scale_rows(model: onnx.ModelProto, names: Container[str] | None = None) -> onnx.ModelProto:
    """A copy that looks up rows divided by their largest magnitude, and that magnitude beside them.

    `names` are the layers to do so for, None all that are large enough to be worth it.

    It computes the same. One int8 scale for the whole table then is as exact as one for every row, and any
    backend can do it: scales by row of a table are not something that Q/DQ can say.
    """
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    tables = {layer.output: layer for layer in quantizable_layers(graph) if layer.kind == TABLE}
    nodes: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
        nodes.append(node)
        layer = tables.get(node.output[0])
        wanted = layer is not None and (names is None or layer.name in names)
        if layer is not None and wanted and _is_large(graph, node, layer):
            scaled = f"{layer.output}{SCALED}"
            nodes += _magnitudes(graph, node, layer, scaled)
            renamed[layer.output] = scaled
    kept = list(nodes)
    del graph.graph.node[:]
    graph.graph.node.extend(kept)
    return graph


def _is_large(graph: onnx.ModelProto, node: onnx.NodeProto, layer: QuantizableLayer) -> bool:
    """Whether `node` looks up whole rows of a large matrix that it alone reads."""
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    matrix = len(constant_proto(graph, layer.weight).dims) == 2
    readers = sum(layer.weight in other.input for other in graph.graph.node)
    outputs = {output.name for output in graph.graph.output}
    large = layer.parameters >= LARGE_TABLE and layer.output not in outputs
    return node.op_type == "Gather" and axis == 0 and matrix and readers == 1 and large


def _magnitudes(
    graph: onnx.ModelProto, node: onnx.NodeProto, layer: QuantizableLayer, scaled: str
) -> list[onnx.NodeProto]:
    """Divides the table's rows in place; the nodes that multiply what was looked up."""
    tensor = constant_proto(graph, layer.weight)
    rows = np.asarray(numpy_helper.to_array(tensor), np.float32)
    magnitudes = np.maximum(np.abs(rows).max(axis=1, keepdims=True), SMALLEST_ROW)
    tensor.CopyFrom(numpy_helper.from_array(rows / magnitudes, layer.weight))
    name = f"{layer.weight}.magnitude"
    graph.graph.initializer.append(numpy_helper.from_array(magnitudes, name))
    looked_up = f"{layer.output}.magnitude"
    return [
        helper.make_node("Gather", [name, node.input[1]], [looked_up], name=looked_up, axis=0),
        helper.make_node("Mul", [layer.output, looked_up], [scaled], name=scaled),
    ]


def row_shapes(graph: onnx.ModelProto, layers: Sequence[QuantizableLayer]) -> dict[str, list[int]]:
    """Rows that are looked up in int8 tables, each with the Reshape that leaves it as it is."""
    tables = {layer.output: layer for layer in layers if layer.kind == TABLE}
    gathers = {node.output[0] for node in graph.graph.node if node.op_type == "Gather"} & set(tables)
    if not gathers:
        return {}
    known = onnx.shape_inference.infer_shapes(strip_weights(graph)).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*known.value_info, *known.input, *known.output)
        if value.type.tensor_type.HasField("shape")
    }
    return {
        name: [0] * (ranks[name] - 1) + [int(constant_proto(graph, tables[name].weight).dims[-1])]
        for name in gathers
        if name in ranks
    }


def row_nodes(graph: onnx.ModelProto, table: QuantizableLayer, shape: list[int]) -> list[onnx.NodeProto]:
    """Rows of an int8 table as int8 and back, with the table's own scale: nothing changes.

    TensorRT wants int8 constants to be dequantized at once. ONNX Runtime would then dequantize the whole
    table at every run, unless it finds the rows quantized again; and it must not find a plain Q and DQ
    there, which it turns to uint8 before it looks. Hence a Reshape between them that reshapes nothing.
    """
    constants = [f"{table.weight}.scale", f"{table.weight}.zero_point"]
    row, name = table.output, f"{table.output}.rows"
    graph.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), f"{name}.shape"))
    return [
        helper.make_node("QuantizeLinear", [row, *constants], [f"{name}.int8"], name=f"{name}.quantize"),
        helper.make_node("Reshape", [f"{name}.int8", f"{name}.shape"], [f"{name}.same"], name=f"{name}.same"),
        helper.make_node(
            "DequantizeLinear",
            [f"{name}.same", *constants],
            [f"{row}.dequantized"],
            name=f"{name}.dequantize",
        ),
    ]
