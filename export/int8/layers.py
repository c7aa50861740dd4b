"""Which parts of a graph can be integers, and which tensors must then share a scale.

A *layer* is a node with constant weights: a convolution, a matrix product, or a table that rows are looked up
in. Each can be in one of four modes:

int8         weights and activations are int8; the product is computed in integers
weight_only  weights are stored in int8, the product is computed in float: a quarter of the size
half         weights are stored in float16, the product is computed in float: half the size
float        unchanged
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from textual_vision.export.graph.constants import consumers_of

INT8, WEIGHT_ONLY, HALF, FLOAT = "int8", "weight_only", "half", "float"
MODES = (INT8, WEIGHT_ONLY, HALF, FLOAT)
QUANTIZED = (INT8, WEIGHT_ONLY)
CONV, LINEAR, TABLE = "conv", "linear", "table"
KINDS = {"Conv": CONV, "MatMul": LINEAR, "Gemm": LINEAR, "Gather": TABLE, "GatherND": TABLE}
# Operators that only move values, so that a scale holds after them too. The fewer in `qdq.INT8_MOVEMENT_OPS`
# are those that every backend also runs on int8 tensors.
DATA_MOVEMENT_OPS = frozenset(
    {"DepthToSpace", "Slice", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Split"}
)
MIN_WEIGHT_VALUES = 256  # values: below it a scale and a node cost more than they save


@dataclass(frozen=True, kw_only=True)
class QuantizableLayer:
    """A node with constant weights. `axis` is that of the weights' output channels (None: one scale for all).

    `activation` is the tensor that the node reads, None for tables. `output` is the node's output and
    identifies the node. `feeds_argmax`: an ArgMin or ArgMax compares the output, so the smallest error can
    choose another code. `is_calibrated`: the activations that int8 needs have ranges (see `uncalibrated`).
    """

    name: str
    kind: str
    weight: str
    parameters: int
    axis: int | None
    activation: str | None
    output: str
    feeds_argmax: bool = False
    is_calibrated: bool = True

    @property
    def is_weight_only(self) -> bool:
        """Whether the weights alone can be int8: the product stays in float."""
        return self.kind == TABLE or not self.is_calibrated


def quantizable_layers(model: onnx.ModelProto) -> tuple[QuantizableLayer, ...]:
    """Every node that could hold int8 weights, in the graph's order; names are unique.

    Lookups in a matrix that a product has a scale for every row or column of are none: a table has one.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = consumers_of(model)
    by_channel = {
        weight
        for node in model.graph.node
        if (weight := _weight_of(node, constants))
        and _channel_axis(node, len(constants[weight].dims)) is not None
    }
    found: dict[str, QuantizableLayer] = {}
    compared = _compared(model, constants)
    for node in model.graph.node:
        weight = _weight_of(node, constants)
        if weight is None or (KINDS[node.op_type] == TABLE and weight in by_channel):
            continue
        name = _name_of(node, weight, readers, constants)
        if name in found:
            name = f"{name}@{node.output[0]}"
        found[name] = QuantizableLayer(
            name=name,
            kind=KINDS[node.op_type],
            weight=weight,
            parameters=int(np.prod(constants[weight].dims)),
            axis=_channel_axis(node, len(constants[weight].dims)),
            activation=None if KINDS[node.op_type] == TABLE else node.input[0],
            output=node.output[0],
            feeds_argmax=node.output[0] in compared,
        )
    return tuple(found.values())


def scale_groups(model: onnx.ModelProto, modes: Mapping[str, str]) -> dict[str, str]:
    """Every activation that gets Q/DQ, with the tensor whose scale it takes (often its own).

    Those are: what an int8 layer reads; what an int8 convolution gives (else ONNX Runtime cannot run it in
    integers); and whatever moving ops make of that. Convolutions' outputs that are moved, and what is looked
    up in an int8 table and then only moved, share the scale of where they come from: no backend has to
    requantize. Residual additions stay in float: sharing one scale among their operands cost ONNX Runtime
    three of seven integer convolutions, and gained OpenVINO nothing.
    """
    layers = {layer.output: layer for layer in quantizable_layers(model)}
    chosen = {layer.output: layer for layer in layers.values() if modes.get(layer.name) == INT8}
    groups = {layer.activation: layer.activation for layer in chosen.values() if layer.activation is not None}
    moved_from: dict[str, str] = {}
    for node in model.graph.node:
        source = node.input[0] if node.input else ""
        layer = layers.get(node.output[0])
        if layer is not None and modes.get(layer.name) in QUANTIZED and layer.kind == TABLE:
            moved_from[layer.output] = layer.weight
        elif layer is not None and layer.output in chosen and layer.kind == CONV:
            groups[layer.output] = moved_from[layer.output] = layer.output
        elif node.op_type in DATA_MOVEMENT_OPS and source in moved_from:
            for output in node.output:
                moved_from[output] = moved_from[source]
                if moved_from[source] in groups or output in groups:
                    groups[output] = moved_from[source]
    return groups


def activations_to_calibrate(model: onnx.ModelProto) -> tuple[str, ...]:
    """Every activation whose range any choice of modes could need.

    In the graph's order, so that the first to go wrong is the first to be looked at. A product that reads a
    reshaped output of a convolution shares its scale, but only while the convolution is in int8.
    """
    layers = [layer for layer in quantizable_layers(model) if layer.kind != TABLE]
    own = set(scale_groups(model, {layer.name: INT8 for layer in layers}).values())
    own |= {layer.activation for layer in layers if layer.activation is not None}
    order = [value.name for value in model.graph.input] + [
        o for node in model.graph.node for o in node.output
    ]
    return tuple(name for name in order if name in own)


def default_modes(layers: tuple[QuantizableLayer, ...], lowest: str) -> dict[str, str]:
    """Layer → `lowest` mode, or WEIGHT_ONLY where a layer cannot be INT8; small layers are left out.

    Distances to codes stay in float: an argmin turns the smallest error into another code.
    """
    worth = [layer for layer in layers if layer.parameters >= MIN_WEIGHT_VALUES and not layer.feeds_argmax]
    return {layer.name: WEIGHT_ONLY if lowest == INT8 and layer.is_weight_only else lowest for layer in worth}


def uncalibrated(
    model: onnx.ModelProto, layers: Sequence[QuantizableLayer], constant: Collection[str]
) -> set[str]:
    """Return the names of the layers that read or give an activation of `constant`, in int8."""
    groups = scale_groups(model, {layer.name: INT8 for layer in layers if layer.kind != TABLE})
    return {
        layer.name
        for layer in layers
        for tensor in (layer.activation, layer.output)
        if tensor in groups and groups[tensor] in constant
    }


def _compared(model: onnx.ModelProto, constants: Mapping[str, onnx.TensorProto]) -> set[str]:
    """Tensors from which an ArgMin or ArgMax is reached without another layer between."""
    found: set[str] = set()
    for node in reversed(model.graph.node):
        reached = node.op_type in ("ArgMin", "ArgMax") or any(output in found for output in node.output)
        if reached and _weight_of(node, constants) is None:
            found.update(node.input)
    return found


def _weight_of(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> str | None:
    if node.op_type not in KINDS or len(node.input) < 2:
        return None
    place = 0 if KINDS[node.op_type] == TABLE else 1
    weight, other = node.input[place], node.input[1 - place]
    if weight not in constants or other in constants or constants[weight].data_type != onnx.TensorProto.FLOAT:
        return None
    dims = constants[weight].dims
    return weight if len(dims) >= 2 and (place == 1 or dims[-1] > 1) else None


def _channel_axis(node: onnx.NodeProto, rank: int) -> int | None:
    """Output channels: rows of a convolution, columns of a matrix; batches and tables have one scale."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return 1 if node.op_type == "MatMul" and rank == 2 else None


def _name_of(
    node: onnx.NodeProto,
    weight: str,
    readers: Mapping[str, list[onnx.NodeProto]],
    constants: Mapping[str, onnx.TensorProto],
) -> str:
    """What the layer is called in the model: by its weight, else by the bias that is added next."""
    for name in (weight, *_bias_names(node, readers, constants)):
        if "." in name:
            return name.removesuffix(".weight").removesuffix(".bias")
    return str(node.name or node.output[0])


def _bias_names(
    node: onnx.NodeProto,
    readers: Mapping[str, list[onnx.NodeProto]],
    constants: Mapping[str, onnx.TensorProto],
) -> Iterator[str]:
    for reader in readers.get(node.output[0], []):
        if reader.op_type == "Add":
            yield from (name for name in reader.input if name in constants)
