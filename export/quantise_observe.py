"""Ranges of a graph's activations, read off the real inputs one batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from textual_vision.calibration.cache import TensorRange
from textual_vision.calibration.histogram import MagnitudeHistogram
from textual_vision.calibration.ranges import AUTO, LEVELS, METHODS, threshold_from_histogram
from textual_vision.calibration.samples import Inputs
from textual_vision.export.quantise_plan import Layer, activations_of, layers_of
from textual_vision.runtime.backends.session import (
    Array,
    Session,
    SessionOptions,
    default_backend,
    open_session,
)
from textual_vision.runtime.errors import UsageError

Float32 = npt.NDArray[np.float32]

SMALLEST_SQUARE = 1e-300
TRIED_BATCHES = 2  # on which `auto` compares the methods


def ranges_of(model: onnx.ModelProto, inputs: Sequence[Inputs], method: str) -> dict[str, TensorRange]:
    """A range for every activation that int8 could need, by `method` (one of METHODS, or AUTO).

    `inputs` are the graph's, one mapping a batch. Memory does not grow with their number. Raises UsageError
    when there are none, or an activation is NaN, infinite or constant (the message names the tensor).
    """
    histograms = histograms_of(model, inputs)
    chosen = dict.fromkeys(histograms, method)
    if method == AUTO:
        chosen = _best_methods(model, histograms, inputs[:TRIED_BATCHES])
    return {
        name: TensorRange(
            threshold=threshold_from_histogram(histogram, chosen[name]),
            method=chosen[name],
            low=histogram.low,
            high=histogram.high,
        )
        for name, histogram in histograms.items()
    }


def histograms_of(model: onnx.ModelProto, inputs: Sequence[Inputs]) -> dict[str, MagnitudeHistogram]:
    """The magnitudes of every activation that int8 could need; raises what `ranges_of` raises."""
    if not inputs:
        raise UsageError("nothing to calibrate with", "give at least one prompt")
    tensors = activations_of(model)
    histograms = {name: MagnitudeHistogram(name) for name in tensors}
    for values in observed(model, tensors, inputs):
        for name, histogram in histograms.items():
            histogram.add(values[name].astype(np.float32, copy=False))
    return histograms


def exposed(model: onnx.ModelProto, tensors: Sequence[str]) -> bytes:
    """The graph with `tensors` as outputs as well, serialised."""
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    known = {value.name for value in (*graph.graph.input, *graph.graph.output)}
    for name in tensors:
        if name not in known:
            graph.graph.output.append(onnx.ValueInfoProto(name=name))
    data: bytes = graph.SerializeToString()
    return data


def session_of(graph: bytes, name: str) -> Session:
    """The graph on the first backend that is installed."""
    return open_session(graph, SessionOptions(backend=default_backend(), name=name))


def observed(
    model: onnx.ModelProto, tensors: Sequence[str], inputs: Sequence[Inputs]
) -> Iterator[Mapping[str, Array]]:
    """The tensors' values, one batch at a time, the graph's inputs among them."""
    session = session_of(exposed(model, tensors), model.graph.name)
    for batch in inputs:
        yield {**batch, **session.run(batch)}


def _best_methods(
    model: onnx.ModelProto, histograms: Mapping[str, MagnitudeHistogram], inputs: Sequence[Inputs]
) -> dict[str, str]:
    """For each tensor the method with the least squared error of what the layers that read it give.

    Tensors that no layer reads (what convolutions give) are judged by their own error.
    """
    readers = _readers(model)
    errors = {name: dict.fromkeys(METHODS, 0.0) for name in histograms}
    thresholds = {
        name: {method: threshold_from_histogram(histogram, method) for method in METHODS}
        for name, histogram in histograms.items()
    }
    for values in observed(model, tuple(histograms), inputs):
        for name in histograms:
            tensor = values[name].astype(np.float32, copy=False)
            expected = [layer.run({name: tensor}) for layer in readers.get(name, [])]
            for method in METHODS:
                rounded = fake_quantised(tensor, thresholds[name][method])
                errors[name][method] += _error(tensor, rounded, name, readers.get(name, []), expected)
    return {name: min(METHODS, key=lambda method: tried[method]) for name, tried in errors.items()}


def _readers(model: onnx.ModelProto) -> dict[str, list[Session]]:
    """Activation → a session for each layer that reads it."""
    found: dict[str, list[Session]] = {}
    for layer in layers_of(model):
        if layer.activation is not None:
            found.setdefault(layer.activation, []).append(session_of(layer_alone(model, layer), layer.name))
    return found


def layer_alone(model: onnx.ModelProto, layer: Layer, weight: Float32 | None = None) -> bytes:
    """The layer's node as a graph from its activation to its output, with `weight` in place of its own."""
    node = next(node for node in model.graph.node if node.output[0] == layer.output)
    constants = [tensor for tensor in model.graph.initializer if tensor.name in node.input]
    if weight is not None:
        constants = [tensor for tensor in constants if tensor.name != layer.weight]
        constants.append(numpy_helper.from_array(weight, layer.weight))
    value = onnx.helper.make_tensor_value_info(layer.activation, onnx.TensorProto.FLOAT, None)
    output = onnx.ValueInfoProto(name=layer.output)
    graph = onnx.helper.make_graph([node], "layer", [value], [output], constants)
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    data: bytes = alone.SerializeToString()
    return data


def _error(
    tensor: Float32,
    rounded: Float32,
    name: str,
    readers: Sequence[Session],
    expected: Sequence[Mapping[str, Array]],
) -> float:
    """Relative squared error of what the readers give, summed over them."""
    if not readers:
        return _relative(tensor, rounded)
    total = 0.0
    for reader, outputs in zip(readers, expected, strict=True):
        found = reader.run({name: rounded})
        total += sum(_relative(outputs[output], found[output]) for output in outputs)
    return total


def fake_quantised(tensor: Float32, threshold: float) -> Float32:
    """What is left of `tensor` after int8 with `threshold` at ±127."""
    scale = np.float32(threshold / LEVELS)
    back: Float32 = np.clip(np.rint(tensor / scale), -LEVELS - 1, LEVELS) * scale
    return back.astype(np.float32, copy=False)


def _relative(expected: Array, found: Array) -> float:
    wanted, got = expected.astype(np.float64), found.astype(np.float64)
    error, size = float(np.square(wanted - got).sum()), float(np.square(wanted).sum())
    return error / max(size, SMALLEST_SQUARE)
