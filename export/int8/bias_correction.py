"""Two corrections that make int8 more exact without making it slower.

Bias correction (Nagel et al. 2019, section 4.2): rounding shifts the mean of each output channel a little,
and means add up from layer to layer. The shift is measured on real inputs and taken out of the layer's bias.

Equalisation: a per-tensor scale must reach the loudest channel, and the quiet ones lose their resolution.
Where a layer norm is read by products alone, its channels can be scaled down and the products' rows up by the
same factor, and the float network stays what it was (the idea of Nagel et al. 2019, section 4.1, at the place
where Xiao et al. 2023 apply it to transformers, with their exponent of one half).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from textual_vision.calibration.samples import Inputs
from textual_vision.export.host.parallel import on_all_cores
from textual_vision.export.int8.layers import CONV, INT8, LINEAR, Layer, layers_of, readers_of
from textual_vision.export.int8.observer import (
    ALONE,
    fake_quantised,
    layer_alone,
    observed,
    session_of,
)
from textual_vision.export.int8.qdq import Bias
from textual_vision.export.int8.weights import QuantisedWeight
from textual_vision.runtime.backends.session import Session

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

SMALLEST_MAGNITUDE = 1e-5  # of a channel, when factors are computed
LARGEST_FACTOR = 1e3


def corrected_biases(
    model: onnx.ModelProto,
    modes: Mapping[str, str],
    thresholds: Mapping[str, float],
    inputs: Sequence[Inputs],
    weights: Mapping[str, QuantisedWeight],
) -> dict[str, Bias]:
    """Layer → its corrected bias, for every int8 layer with a bias of its own; `weights` by their names."""
    layers = {
        layer: bias
        for layer in layers_of(model)
        if modes.get(layer.name) == INT8 and (bias := _bias_of(model, layer)) is not None
    }
    if not layers:
        return {}
    products = {layer.name for layer in layers if _is_product(model, layer)}
    shifts = _shifts_of_products(
        model, [one for one in layers if one.name in products], thresholds, inputs, weights
    )
    others = [one for one in layers if one.name not in products]
    shifts |= _shifts_of_others(model, others, thresholds, inputs, weights)
    return {
        layer.name: Bias(constant=bias, values=(_values(model, bias) + shifts[layer.name]).astype(np.float32))
        for layer, bias in layers.items()
    }


def _is_product(model: onnx.ModelProto, layer: Layer) -> bool:
    """Whether the layer multiplies by its matrix, and does nothing else but add its bias."""
    node = next(node for node in model.graph.node if node.output[0] == layer.output)
    scaled = {attribute.name for attribute in node.attribute} & {"alpha", "transA"}
    return layer.kind == LINEAR and layer.axis is not None and not scaled


def _shifts_of_products(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    thresholds: Mapping[str, float],
    inputs: Sequence[Inputs],
    weights: Mapping[str, QuantisedWeight],
) -> dict[str, Float64]:
    """By layer what the mean of each output channel loses. Of no row but the mean one has the product to be
    computed: what a product makes of it is the mean of what it makes of all.
    """
    activations = list(dict.fromkeys(one.activation for one in layers if one.activation is not None))
    exact: dict[str, Float64] = {}
    rounded: dict[str, Float64] = {}
    for values in observed(model, activations, inputs) if activations else ():
        for name in activations:
            x = values[name].astype(np.float32, copy=False)
            for means, rows in ((exact, x), (rounded, fake_quantised(x, thresholds[name]))):
                mean = rows.reshape(-1, rows.shape[-1]).mean(axis=0, dtype=np.float64)
                means[name] = means.get(name, 0.0) + mean / len(inputs)
    shifts = {}
    for layer in layers:
        assert layer.activation is not None
        before, after = _values(model, layer.weight), weights[layer.weight].dequantised()
        if layer.axis == 0:  # (outputs, inputs)
            before, after = before.T, after.T
        shifts[layer.name] = exact[layer.activation] @ before - rounded[layer.activation] @ after
    return shifts


def _shifts_of_others(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    thresholds: Mapping[str, float],
    inputs: Sequence[Inputs],
    weights: Mapping[str, QuantisedWeight],
) -> dict[str, Float64]:
    """The same where all of it has to be computed."""
    sessions = {layer.name: _both(model, layer, weights[layer.weight]) for layer in layers}
    shifts: dict[str, Float64] = {}
    activations = [layer.activation for layer in layers if layer.activation is not None]
    for values in observed(model, activations, inputs) if layers else ():

        def shift(layer: Layer, values: Inputs = values) -> Float64:
            assert layer.activation is not None
            exact, rounded = sessions[layer.name]
            x = values[layer.activation].astype(np.float32, copy=False)
            q = fake_quantised(x, thresholds[layer.activation])
            output = f"{layer.output}{ALONE}"
            error = exact.run({layer.activation: x})[output].astype(np.float64)
            error -= rounded.run({layer.activation: q})[output].astype(np.float64)
            axes = (0, 2, 3) if layer.kind == CONV else tuple(range(error.ndim - 1))
            mean: Float64 = error.mean(axis=axes)
            return mean

        for layer, mean in zip(layers, on_all_cores(shift, layers), strict=True):
            shifts[layer.name] = shifts.get(layer.name, 0.0) + mean / len(inputs)
    return shifts


def can_be_equalised(model: onnx.ModelProto) -> bool:
    """Whether `equalised` would change anything."""
    return bool(_norms_before_products(model))


def equalised(model: onnx.ModelProto, inputs: Sequence[Inputs]) -> onnx.ModelProto:
    """A copy that computes the same in float, with layer norms' channels made equally loud."""
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    norms = _norms_before_products(graph)
    largest: dict[str, Float32] = {}
    for values in observed(graph, tuple(norms), inputs):
        for name in norms:
            channels = np.abs(values[name]).reshape(-1, values[name].shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest[name], channels) if name in largest else channels
    for name, (norm, products) in norms.items():
        _scale(graph, norm, products, largest[name])
    return graph


def _scale(
    graph: onnx.ModelProto, norm: onnx.NodeProto, products: Sequence[onnx.NodeProto], loud: Float32
) -> None:
    weights = [_values(graph, node.input[1]) for node in products]
    rows = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    factor = np.sqrt(np.maximum(loud, SMALLEST_MAGNITUDE) / np.maximum(rows, SMALLEST_MAGNITUDE))
    factor = np.clip(factor / np.exp(np.log(factor).mean()), 1 / LARGEST_FACTOR, LARGEST_FACTOR)
    for place in (1, 2):
        _put(graph, norm, place, _values(graph, norm.input[place]) / factor)
    for node, weight in zip(products, weights, strict=True):
        _put(graph, node, 1, weight * factor[:, None])


def _put(graph: onnx.ModelProto, node: onnx.NodeProto, place: int, value: npt.NDArray[np.floating]) -> None:
    """A new value for one of the node's constants; others that read the old one keep it."""
    old = node.input[place]
    shared = len(readers_of(graph)[old]) > 1
    new = numpy_helper.from_array(value.astype(np.float32), f"{old}.of.{node.output[0]}" if shared else old)
    if shared:
        graph.graph.initializer.append(new)
        node.input[place] = new.name
    else:
        next(tensor for tensor in graph.graph.initializer if tensor.name == old).CopyFrom(new)


def _norms_before_products(
    graph: onnx.ModelProto,
) -> dict[str, tuple[onnx.NodeProto, list[onnx.NodeProto]]]:
    """Layer norms with constant gain and bias that only products by constant matrices read."""
    constants = {tensor.name for tensor in graph.graph.initializer}
    readers = readers_of(graph)
    products = {layer.output for layer in layers_of(graph) if layer.kind == LINEAR and layer.axis == 1}
    found = {}
    for node in graph.graph.node:
        if (
            node.op_type != "LayerNormalization"
            or len(node.input) < 3
            or not set(node.input[1:3]) <= constants
        ):
            continue
        nodes = readers.get(node.output[0], [])
        if nodes and all(n.output[0] in products and n.op_type == "MatMul" for n in nodes):
            found[node.output[0]] = (node, nodes)
    return found


def _bias_of(model: onnx.ModelProto, layer: Layer) -> str | None:
    """The constant that is added to what the layer gives, and to nothing else."""
    readers = readers_of(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    node = next(node for node in model.graph.node if node.output[0] == layer.output)
    candidates: list[str] = list(node.input[2:3]) if node.op_type in ("Conv", "Gemm") else []
    if node.op_type == "MatMul":
        after = readers.get(layer.output, [])
        if len(after) == 1 and after[0].op_type == "Add":
            candidates = [name for name in after[0].input if name != layer.output]
    return next(
        (n for n in candidates if n in constants and len(constants[n].dims) == 1 and len(readers[n]) == 1),
        None,
    )


def _both(model: onnx.ModelProto, layer: Layer, weight: QuantisedWeight) -> tuple[Session, Session]:
    """The layer alone, with its float weights and with what is left of them in int8."""
    exact = session_of(layer_alone(model, layer), layer.name)
    return exact, session_of(layer_alone(model, layer, weight.dequantised()), layer.name)


def _values(model: onnx.ModelProto, name: str) -> Float32:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return np.asarray(numpy_helper.to_array(tensor), np.float32)
