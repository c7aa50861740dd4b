"""Ranges of a graph's activations, read off the real inputs one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from textual_vision.calibration.cache import TensorRange
from textual_vision.calibration.histogram import MagnitudeHistogram
from textual_vision.calibration.ranges import AUTO, LEVELS, METHODS, threshold_from_histogram
from textual_vision.export.graph.strip_weights import expose_tensors
from textual_vision.export.host.parallel import parallel_map
from textual_vision.export.int8.layers import QuantizableLayer, activations_to_calibrate, quantizable_layers
from textual_vision.export.model.batch import Inputs
from textual_vision.export.sessions.opening import open_own_graph
from textual_vision.runtime.backends.session import (
    Array,
    Session,
    SessionOptions,
    default_backend,
)
from textual_vision.runtime.errors import UsageError

Float32 = npt.NDArray[np.float32]
# The tensors' values, one batch at a time, the graph's inputs among them.
Observe = Callable[[Sequence[Inputs]], Iterator[Mapping[str, Array]]]

SMALLEST_SQUARE = 1e-300
ALONE = ".alone"  # after the name of what a layer gives
TRIED_BATCHES = 2  # on which `auto` compares the methods


def calibrate_ranges(model: onnx.ModelProto, inputs: Sequence[Inputs], method: str) -> dict[str, TensorRange]:
    """A range for every activation that int8 could need, by `method` (one of METHODS, or AUTO).

    `inputs` are the graph's, one mapping a batch. Memory does not grow with their number. Raises UsageError
    when there are none, or an activation is NaN or infinite (the message names the tensor). An activation
    that never varies has a range of no width (see `TensorRange.is_constant`).
    """
    tensors = activations_to_calibrate(model)
    observe = open_observer(model, tensors)
    histograms = _histograms(tensors, inputs, observe)
    methods = METHODS if method == AUTO else (method,)
    thresholds = {
        name: {tried: threshold_from_histogram(histogram, tried) for tried in methods}
        for name, histogram in histograms.items()
    }
    chosen = dict.fromkeys(histograms, method)
    if method == AUTO:
        chosen = _best_methods(model, thresholds, observe(inputs[:TRIED_BATCHES]))
    return {
        name: TensorRange(
            threshold=thresholds[name][chosen[name]],
            method=chosen[name],
            low=histogram.low,
            high=histogram.high,
        )
        for name, histogram in histograms.items()
    }


def histograms_of(model: onnx.ModelProto, inputs: Sequence[Inputs]) -> dict[str, MagnitudeHistogram]:
    """The magnitudes of every activation that int8 could need; raises what `calibrate_ranges` raises."""
    tensors = activations_to_calibrate(model)
    return _histograms(tensors, inputs, open_observer(model, tensors))


def _histograms(
    tensors: Sequence[str], inputs: Sequence[Inputs], observe: Observe
) -> dict[str, MagnitudeHistogram]:
    if not inputs:
        raise UsageError("nothing to calibrate with", "give at least one prompt")
    histograms = {name: MagnitudeHistogram(name) for name in tensors}
    for values in observe(inputs):
        for name, histogram in histograms.items():
            histogram.add(values[name].astype(np.float32, copy=False))
    return histograms


def exposed(model: onnx.ModelProto, tensors: Sequence[str]) -> bytes:
    """The graph with `tensors` as outputs as well, serialized."""
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    return expose_tensors(model.SerializeToString(), [name for name in tensors if name not in known])


def open_layer_session(graph: bytes, name: str) -> Session:
    """The graph on the first backend that is installed, on one core."""
    options = SessionOptions(backend=default_backend(), name=name, threads=1, trusted=True)
    return open_own_graph(graph, options)


def open_observer(model: onnx.ModelProto, tensors: Sequence[str]) -> Observe:
    """Opens the graph to observe the tensors, as often as wanted."""
    session = open_layer_session(exposed(model, tensors), model.graph.name)
    return lambda inputs: parallel_map(lambda batch: {**batch, **session.run(batch)}, inputs)


def observe(
    model: onnx.ModelProto, tensors: Sequence[str], inputs: Sequence[Inputs]
) -> Iterator[Mapping[str, Array]]:
    """See Observe."""
    return open_observer(model, tensors)(inputs)


def _best_methods(
    model: onnx.ModelProto,
    thresholds: Mapping[str, Mapping[str, float]],
    samples: Iterator[Mapping[str, Array]],
) -> dict[str, str]:
    """For each tensor the method with the least squared error of what the layers that read it give.

    `thresholds`, tensor → method → threshold. Tensors that no layer reads (what convolutions give) are judged
    by their own error.
    """
    readers = _Readers(model, thresholds)
    errors = {name: dict.fromkeys(METHODS, 0.0) for name in thresholds}
    for values in samples:
        tensors = {name: values[name].astype(np.float32, copy=False) for name in thresholds}
        expected = readers.outputs(tensors)

        def rounded(
            method: str, tensors: Mapping[str, Float32] = tensors
        ) -> tuple[str, dict[str, list[Array]]]:
            return method, readers.outputs(
                {name: fake_quantize(tensor, thresholds[name][method]) for name, tensor in tensors.items()}
            )

        for method, found in parallel_map(rounded, METHODS):
            for name, outputs in expected.items():
                pairs = zip(outputs, found[name], strict=True)
                errors[name][method] += sum(_relative(a, b) for a, b in pairs)
    return {name: min(METHODS, key=lambda method: tried[method]) for name, tried in errors.items()}


class _Readers:
    """Every layer by itself, all side by side in one graph: to open a session for each of the hundreds of a
    network that runs in steps took longer than all else.
    """

    def __init__(self, model: onnx.ModelProto, activations: Collection[str]) -> None:
        layers = [one for one in quantizable_layers(model) if one.activation in activations]
        self._outputs: dict[str, list[str]] = {name: [] for name in activations}
        for layer in layers:
            self._outputs[str(layer.activation)].append(f"{layer.output}{ALONE}")
        self._session = open_layer_session(extract_layers(model, layers), "layers") if layers else None

    def outputs(self, tensors: Mapping[str, Float32]) -> dict[str, list[Array]]:
        """By activation what the layers that read it give; the activation itself if none does."""
        if self._session is None:
            return {name: [tensor] for name, tensor in tensors.items()}
        given = self._session.run({name: tensors[name] for name in self._session.inputs})
        return {
            name: [given[output] for output in outputs] or [tensors[name]]
            for name, outputs in self._outputs.items()
        }


def extract_layer(model: onnx.ModelProto, layer: QuantizableLayer, weight: Float32 | None = None) -> bytes:
    """The layer's node as a graph from its activation to its output, with `weight` in place of its own."""
    graph = onnx.load_from_string(extract_layers(model, [layer]))
    if weight is not None:
        constant = next(tensor for tensor in graph.graph.initializer if tensor.name == layer.weight)
        constant.CopyFrom(numpy_helper.from_array(weight, layer.weight))
    data: bytes = graph.SerializeToString()
    return data


def extract_layers(model: onnx.ModelProto, layers: Sequence[QuantizableLayer]) -> bytes:
    """The layers' nodes as a graph from their activations to their outputs, whose names end in ALONE."""
    by_output = {node.output[0]: node for node in model.graph.node}
    nodes = [onnx.NodeProto() for _ in layers]
    for layer, node in zip(layers, nodes, strict=True):
        node.CopyFrom(by_output[layer.output])
        node.output[0] += ALONE
    used = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    activations = dict.fromkeys(str(layer.activation) for layer in layers)
    given = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in activations]
    outputs = [onnx.ValueInfoProto(name=node.output[0]) for node in nodes]
    graph = onnx.helper.make_graph(nodes, "layers", given, outputs, constants)
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    data: bytes = alone.SerializeToString()
    return data


def fake_quantize(tensor: Float32, threshold: float) -> Float32:
    """What is left of `tensor` after int8 with `threshold` at ±127."""
    scale = np.float32(threshold / LEVELS)
    back: Float32 = np.clip(np.rint(tensor / scale), -LEVELS - 1, LEVELS) * scale
    return back.astype(np.float32, copy=False)


def _relative(expected: Array, found: Array) -> float:
    wanted, got = expected.astype(np.float64), found.astype(np.float64)
    error, size = float(np.square(wanted - got).sum()), float(np.square(wanted).sum())
    return error / max(size, SMALLEST_SQUARE)
