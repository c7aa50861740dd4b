"""A graph with explicit Q/DQ, as ONNX Runtime, OpenVINO, TensorRT 8.6 to 11 and TensorRT-RTX read it.

Symmetric int8 with zero points 0 and float32 scales; one scale a channel for weights, one a tensor for
activations; biases stay in float (an int32 bias behind Q/DQ is what TensorRT refuses).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from textual_vision.calibration.ranges import LEVELS
from textual_vision.export.graph.constants import constant_proto
from textual_vision.export.graph.opset import opset_of
from textual_vision.export.int8.embeddings import row_nodes, row_shapes
from textual_vision.export.int8.layers import (
    HALF,
    INT8,
    QUANTIZED,
    QuantizableLayer,
    quantizable_layers,
    scale_groups,
)
from textual_vision.export.int8.weights import QuantizedWeight, quantize_weight
from textual_vision.export.precision.lossless_storage import compress_lossless
from textual_vision.runtime.errors import UsageError

Float32 = npt.NDArray[np.float32]
# Operators that every backend runs on int8 tensors: dequantization may come after them.
INT8_MOVEMENT_OPS = frozenset({"MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
OPSET_OF_TYPED_Q = 21  # from which QuantizeLinear can be told its type by an attribute


@dataclass(frozen=True, kw_only=True)
class Bias:
    """`values` for the constant that is a layer's bias and nothing else's."""

    constant: str
    values: Float32


def quantize_graph(
    model: onnx.ModelProto,
    modes: Mapping[str, str],
    thresholds: Mapping[str, float],
    biases: Mapping[str, Bias] | None = None,
    rounded: Mapping[str, QuantizedWeight] | None = None,
    *,
    compact: bool = True,
) -> onnx.ModelProto:
    """A copy of the float `model` with each layer in its mode; layers that `modes` leaves out stay float.

    `thresholds`: activation → the magnitude that becomes 127, for those of `activations_to_calibrate` that
    the modes need. `biases`: layer → its bias corrected for int8, used for layers in that mode (see
    `bias_correction`). `rounded`: weight → int8 values used instead of the nearest (see `gptq`). With
    `compact`, other constants are stored in half where that loses nothing. Raises UsageError for a layer
    that the graph does not have, or an activation without a range.
    """
    layers = {layer.name: layer for layer in quantizable_layers(model)}
    if unknown := sorted(set(modes) - set(layers)):
        raise UsageError(
            f"no layer {unknown[0]!r} in graph {model.graph.name!r}", "see `tv-export sensitivity`"
        )
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    for name, bias in (biases or {}).items():
        if modes.get(name) == INT8:
            tensor = constant_proto(graph, bias.constant)
            tensor.CopyFrom(numpy_helper.from_array(bias.values, bias.constant))
    quantized = [layer for layer in layers.values() if modes.get(layer.name) in QUANTIZED]
    weights = dict(rounded or {})
    for layer in quantized:
        if layer.weight not in weights:
            weights[layer.weight] = quantize_weight(_constant(graph, layer.weight), layer.axis)
    scales = _activation_scales(model, modes, thresholds, weights)
    _write_nodes(graph, layers, modes, weights, scales)
    if compact:
        compress_lossless(graph, {layer.weight for layer in layers.values() if modes.get(layer.name) == HALF})
    return graph


def _activation_scales(
    model: onnx.ModelProto,
    modes: Mapping[str, str],
    thresholds: Mapping[str, float],
    weights: Mapping[str, QuantizedWeight],
) -> dict[str, float]:
    """Every tensor that gets Q/DQ with its scale; rows of an int8 table keep the table's."""
    scales = {}
    for tensor, root in scale_groups(model, modes).items():
        if root in weights:
            scales[tensor] = float(weights[root].scales)
        elif root in thresholds:
            scales[tensor] = float(np.float32(thresholds[root] / LEVELS))
        else:
            raise UsageError(
                f"no range for the activation {root!r}", "calibrate again: the cache is of another graph"
            )
    return scales


def _write_nodes(
    graph: onnx.ModelProto,
    layers: Mapping[str, QuantizableLayer],
    modes: Mapping[str, str],
    weights: Mapping[str, QuantizedWeight],
    scales: Mapping[str, float],
) -> None:
    by_output = {layer.output: layer for layer in layers.values()}
    int8_layers = {layer.output for layer in layers.values() if modes.get(layer.name) == INT8}
    from_conv = {
        tensor for tensor, root in scale_groups(graph, modes).items() if root != tensor or root in int8_layers
    }
    rows = row_shapes(graph, [layer for layer in layers.values() if modes.get(layer.name) in QUANTIZED])
    nodes: list[onnx.NodeProto] = []
    written: set[str] = set()
    for node in graph.graph.node:
        layer = by_output.get(node.output[0])
        if layer is not None and modes.get(layer.name) in QUANTIZED:
            if layer.weight not in written:
                nodes.append(_weight_node(graph, layer.weight, weights[layer.weight]))
                written.add(layer.weight)
            _replace(node, layer.weight, f"{layer.weight}.dequantized")
        for tensor in set(node.input) & set(scales):
            # Only int8 layers read what others also read in float: the residual additions beside them.
            if node.output[0] in int8_layers or tensor in from_conv:
                nodes += _reading_nodes(graph, tensor, node, scales[tensor])
        for tensor in set(node.input) & set(rows):
            _replace(node, tensor, f"{tensor}.dequantized")
        nodes.append(node)
        if node.output[0] in rows:
            nodes += row_nodes(graph, by_output[node.output[0]], rows[node.output[0]])
    if opset_of(graph) >= OPSET_OF_TYPED_Q:
        nodes = _move_in_int8(graph, nodes)
    _put_nodes(graph, nodes)


def _move_in_int8(graph: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes with activations dequantized after they were moved, not before: the same values.

    ONNX Runtime does so itself, by more Q/DQ. On x86 it then turns those to uint8 and, where an attribute
    tells a Q its type, forgets to change that: it would refuse the graph.
    """
    constants = {tensor.name for tensor in graph.graph.initializer}
    dequantized: dict[str, onnx.NodeProto] = {}
    found: list[onnx.NodeProto] = []
    for node in nodes:
        found.append(node)
        if node.op_type == "DequantizeLinear" and node.input[0] not in constants:
            dequantized[node.output[0]] = node
        if node.op_type not in INT8_MOVEMENT_OPS or node.input[0] not in dequantized:
            continue
        before, moved = dequantized[node.input[0]], node.output[0]
        node.input[0], node.output[0] = before.input[0], f"{moved}.int8"
        inputs = [node.output[0], *before.input[1:]]
        after = helper.make_node("DequantizeLinear", inputs, [moved], name=f"{moved}.dequantize")
        found.append(after)
        dequantized[moved] = after
    read = {name for node in found for name in node.input} | {out.name for out in graph.graph.output}
    return [node for node in found if node.op_type != "DequantizeLinear" or node.output[0] in read]


def _weight_node(graph: onnx.ModelProto, name: str, weight: QuantizedWeight) -> onnx.NodeProto:
    zeros = np.zeros(weight.scales.shape, np.int8)
    names = [f"{name}.int8", f"{name}.scale", f"{name}.zero_point"]
    for constant, value in zip(names, (weight.values, weight.scales, zeros), strict=True):
        graph.graph.initializer.append(numpy_helper.from_array(value, constant))
    axis = {} if weight.axis is None else {"axis": weight.axis}
    return helper.make_node(
        "DequantizeLinear", names, [f"{name}.dequantized"], name=f"{name}.dequantize", **axis
    )


def _reading_nodes(
    graph: onnx.ModelProto, tensor: str, reader: onnx.NodeProto, scale: float
) -> list[onnx.NodeProto]:
    """Q/DQ for one reader alone: a product that shares them with others stays in float in ONNX Runtime."""
    constants = [f"{tensor}.scale", f"{tensor}.zero_point"]
    if not any(known.name == constants[0] for known in graph.graph.initializer):
        graph.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), constants[0]))
        graph.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), constants[1]))
    name = f"{tensor}.for.{reader.output[0]}"
    _replace(reader, tensor, f"{name}.dequantized")
    return [
        helper.make_node("QuantizeLinear", [tensor, *constants], [f"{name}.int8"], name=f"{name}.quantize"),
        helper.make_node(
            "DequantizeLinear",
            [f"{name}.int8", *constants],
            [f"{name}.dequantized"],
            name=f"{name}.dequantize",
        ),
    ]


def _put_nodes(graph: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Replace the graph's nodes; drop constants that nothing reads any more, and notes about the tracing."""
    kept_nodes = list(nodes)
    del graph.graph.node[:]
    graph.graph.node.extend(kept_nodes)
    used = {name for node in kept_nodes for name in node.input} | {out.name for out in graph.graph.output}
    kept = [tensor for tensor in graph.graph.initializer if tensor.name in used]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.graph.value_info[:]


def _replace(node: onnx.NodeProto, old: str, new: str) -> None:
    for place, name in enumerate(node.input):
        if name == old:
            node.input[place] = new


def _constant(graph: onnx.ModelProto, name: str) -> Float32:
    return np.asarray(numpy_helper.to_array(constant_proto(graph, name)), np.float32)
