"""QuantizableLayer norms whose channels are scaled to similar magnitudes before they are quantized.

A per-tensor scale must cover the largest channel, and small channels lose resolution. Where only products
read a layer norm, its channels are scaled down and the products' rows up by the same factor: the float
network stays the same (the idea of Nagel et al. 2019, section 4.1, at the place where Xiao et al. 2023 apply
it to transformers, with their exponent of one half).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from textual_vision.export.graph.constants import array_of, constant_proto, consumers_of
from textual_vision.export.int8.layers import LINEAR, quantizable_layers
from textual_vision.export.int8.observer import observe
from textual_vision.export.model.batch import Inputs

Float32 = npt.NDArray[np.float32]

SMALLEST_MAGNITUDE = 1e-5  # of a channel, when factors are computed
LARGEST_FACTOR = 1e3


def can_be_equalized(model: onnx.ModelProto) -> bool:
    """Whether `equalize` would change anything."""
    return bool(_norms_before_products(model))


def equalize(model: onnx.ModelProto, inputs: Sequence[Inputs]) -> onnx.ModelProto:
    """A copy that computes the same in float, with layer norms' channels made equally loud."""
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    norms = _norms_before_products(graph)
    largest: dict[str, Float32] = {}
    for values in observe(graph, tuple(norms), inputs):
        for name in norms:
            channels = np.abs(values[name]).reshape(-1, values[name].shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest[name], channels) if name in largest else channels
    for name, (norm, products) in norms.items():
        _scale(graph, norm, products, largest[name])
    return graph


def _scale(
    graph: onnx.ModelProto, norm: onnx.NodeProto, products: Sequence[onnx.NodeProto], loud: Float32
) -> None:
    weights = [array_of(graph, node.input[1]) for node in products]
    rows = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    factor = np.sqrt(np.maximum(loud, SMALLEST_MAGNITUDE) / np.maximum(rows, SMALLEST_MAGNITUDE))
    factor = np.clip(factor / np.exp(np.log(factor).mean()), 1 / LARGEST_FACTOR, LARGEST_FACTOR)
    for place in (1, 2):
        _put(graph, norm, place, array_of(graph, norm.input[place]) / factor)
    for node, weight in zip(products, weights, strict=True):
        _put(graph, node, 1, weight * factor[:, None])


def _put(graph: onnx.ModelProto, node: onnx.NodeProto, place: int, value: npt.NDArray[np.floating]) -> None:
    """A new value for one of the node's constants; others that read the old one keep it."""
    old = node.input[place]
    shared = len(consumers_of(graph)[old]) > 1
    new = numpy_helper.from_array(value.astype(np.float32), f"{old}.of.{node.output[0]}" if shared else old)
    if shared:
        graph.graph.initializer.append(new)
        node.input[place] = new.name
    else:
        constant_proto(graph, old).CopyFrom(new)


def _norms_before_products(
    graph: onnx.ModelProto,
) -> dict[str, tuple[onnx.NodeProto, list[onnx.NodeProto]]]:
    """QuantizableLayer norms with constant gain and bias that only products by constant matrices read."""
    constants = {tensor.name for tensor in graph.graph.initializer}
    readers = consumers_of(graph)
    products = {
        layer.output for layer in quantizable_layers(graph) if layer.kind == LINEAR and layer.axis == 1
    }
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
