"""Biases corrected for the mean error of int8 (Nagel et al. 2019, section 4.2).

Rounding shifts the mean of each output channel a little, and the shifts add up from layer to layer. The shift
is measured on real inputs and subtracted from the layer's bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx

from textual_vision.export.graph.constants import array_of, consumers_of
from textual_vision.export.host.parallel import parallel_map
from textual_vision.export.int8.layers import CONV, INT8, LINEAR, QuantizableLayer, quantizable_layers
from textual_vision.export.int8.observer import (
    ALONE,
    extract_layer,
    fake_quantize,
    observe,
    open_layer_session,
)
from textual_vision.export.int8.qdq import Bias
from textual_vision.export.int8.weights import QuantizedWeight
from textual_vision.export.model.batch import Inputs
from textual_vision.runtime.backends.session import Session

Float64 = npt.NDArray[np.float64]


def corrected_biases(
    model: onnx.ModelProto,
    modes: Mapping[str, str],
    thresholds: Mapping[str, float],
    inputs: Sequence[Inputs],
    weights: Mapping[str, QuantizedWeight],
) -> dict[str, Bias]:
    """Layer → its corrected bias, for every int8 layer with a bias of its own; `weights` by their names."""
    layers = {
        layer: bias
        for layer in quantizable_layers(model)
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
        layer.name: Bias(
            constant=bias, values=(array_of(model, bias) + shifts[layer.name]).astype(np.float32)
        )
        for layer, bias in layers.items()
    }


def _is_product(model: onnx.ModelProto, layer: QuantizableLayer) -> bool:
    """Whether the layer multiplies by its matrix, and does nothing else but add its bias."""
    node = next(node for node in model.graph.node if node.output[0] == layer.output)
    scaled = {attribute.name for attribute in node.attribute} & {"alpha", "transA"}
    return layer.kind == LINEAR and layer.axis is not None and not scaled


def _shifts_of_products(
    model: onnx.ModelProto,
    layers: Sequence[QuantizableLayer],
    thresholds: Mapping[str, float],
    inputs: Sequence[Inputs],
    weights: Mapping[str, QuantizedWeight],
) -> dict[str, Float64]:
    """By layer what the mean of each output channel loses. Of no row but the mean one has the product to be
    computed: what a product makes of it is the mean of what it makes of all.
    """
    activations = list(dict.fromkeys(one.activation for one in layers if one.activation is not None))
    exact: dict[str, Float64] = {}
    rounded: dict[str, Float64] = {}
    for values in observe(model, activations, inputs) if activations else ():
        for name in activations:
            x = values[name].astype(np.float32, copy=False)
            for means, rows in ((exact, x), (rounded, fake_quantize(x, thresholds[name]))):
                mean = rows.reshape(-1, rows.shape[-1]).mean(axis=0, dtype=np.float64)
                means[name] = means.get(name, 0.0) + mean / len(inputs)
    shifts = {}
    for layer in layers:
        assert layer.activation is not None
        before, after = array_of(model, layer.weight), weights[layer.weight].dequantized()
        if layer.axis == 0:  # (outputs, inputs)
            before, after = before.T, after.T
        shifts[layer.name] = exact[layer.activation] @ before - rounded[layer.activation] @ after
    return shifts


def _shifts_of_others(
    model: onnx.ModelProto,
    layers: Sequence[QuantizableLayer],
    thresholds: Mapping[str, float],
    inputs: Sequence[Inputs],
    weights: Mapping[str, QuantizedWeight],
) -> dict[str, Float64]:
    """The same where all of it has to be computed."""
    sessions = {layer.name: _both(model, layer, weights[layer.weight]) for layer in layers}
    shifts: dict[str, Float64] = {}
    activations = [layer.activation for layer in layers if layer.activation is not None]
    for values in observe(model, activations, inputs) if layers else ():

        def shift(layer: QuantizableLayer, values: Inputs = values) -> Float64:
            assert layer.activation is not None
            exact, rounded = sessions[layer.name]
            x = values[layer.activation].astype(np.float32, copy=False)
            q = fake_quantize(x, thresholds[layer.activation])
            output = f"{layer.output}{ALONE}"
            error = exact.run({layer.activation: x})[output].astype(np.float64)
            error -= rounded.run({layer.activation: q})[output].astype(np.float64)
            channels = 1 if layer.kind == CONV else error.ndim - 1
            axes = tuple(axis for axis in range(error.ndim) if axis != channels)
            mean: Float64 = error.mean(axis=axes)
            return mean

        for layer, mean in zip(layers, parallel_map(shift, layers), strict=True):
            shifts[layer.name] = shifts.get(layer.name, 0.0) + mean / len(inputs)
    return shifts


def _bias_of(model: onnx.ModelProto, layer: QuantizableLayer) -> str | None:
    """The constant that is added to what the layer gives, and to nothing else."""
    readers = consumers_of(model)
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


def _both(
    model: onnx.ModelProto, layer: QuantizableLayer, weight: QuantizedWeight
) -> tuple[Session, Session]:
    """The layer alone, with its float weights and with what is left of them in int8."""
    exact = open_layer_session(extract_layer(model, layer), layer.name)
    return exact, open_layer_session(extract_layer(model, layer, weight.dequantized()), layer.name)
