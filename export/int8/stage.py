"""One stage made ready for int8: ranges from real drawings, and the corrections that help it most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx
import onnx_ir as ir

from textual_vision.calibration.cache import AGAIN_HINT, TensorRange
from textual_vision.calibration.ranges import AUTO
from textual_vision.calibration.samples import Inputs
from textual_vision.export.int8.bias_correction import corrected_biases
from textual_vision.export.int8.embeddings import SCALED, row_scaled
from textual_vision.export.int8.equalization import can_be_equalized, equalized
from textual_vision.export.int8.gptq import weights_for_inputs
from textual_vision.export.int8.layers import (
    INT8,
    QUANTIZED,
    SMALLEST_WEIGHT,
    Layer,
    activations_of,
    default_modes,
    layers_of,
)
from textual_vision.export.int8.observer import ranges_of
from textual_vision.export.int8.qdq import Bias, quantized_graph
from textual_vision.export.int8.score import Measure
from textual_vision.export.int8.weights import QuantizedWeight, nearest_weights
from textual_vision.export.model.batch import Batch
from textual_vision.export.passes import conv_transpose as rewrites_upsample
from textual_vision.export.passes import fuse_linears as rewrites_merge
from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.manifest import StageSpec

PLAIN, CORRECTED, EQUALIZED, BOTH, ROUNDED = "plain", "corrected", "equalized", "both", "rounded"
# Of the codes wrong when every layer is int8: no correction makes up for it. Of .24 the best left .20.
HOPELESS = 0.2
CORRECTIONS = (PLAIN, CORRECTED, EQUALIZED, BOTH, ROUNDED)
TWINS = {EQUALIZED: PLAIN, BOTH: CORRECTED}  # what they come to where there is nothing to equalize


@dataclass(frozen=True, kw_only=True)
class RangeOptions:
    """`method` of ranges (see `calibration.ranges`) and the `corrections` that are tried.

    ROUNDED, weights rounded for their real inputs, is tried on top of the best of the others.

    `ranges`, stage → tensor → range, spares reading them off the drawings; corrections that move ranges are
    then not tried.
    """

    method: str = AUTO
    corrections: tuple[str, ...] = CORRECTIONS
    ranges: Mapping[str, Mapping[str, TensorRange]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class QuantizedStage:
    """A stage ready to be written with any modes: `model` in float (maybe equalized), and what int8 needs.

    `weights` are the layers' in int8 by their names; of large tables those whose rows are divided by their
    magnitudes (see `row_scaled`).
    """

    stage: StageSpec
    model: onnx.ModelProto
    layers: tuple[Layer, ...]
    ranges: Mapping[str, TensorRange]
    weights: Mapping[str, QuantizedWeight]
    biases: Mapping[str, Bias]
    correction: str
    calibrated: Mapping[str, TensorRange]  # as read off the float graph, before any equalization
    errors: Mapping[str, float]  # by correction: what was compared
    target: str  # what the graph is for, "cpu" or "tensorrt"

    def graph(self, modes: Mapping[str, str], *, compact: bool = True) -> bytes:
        """The stage's graph with each layer in its mode, serialized; not `compact` is quicker, and larger."""
        chosen = {layer.name: modes[layer.name] for layer in self.layers if layer.name in modes}
        tables = {name for name, mode in chosen.items() if mode in QUANTIZED}
        thresholds = {name: found.threshold for name, found in self.ranges.items()}
        thresholds |= {f"{name}{SCALED}": value for name, value in thresholds.items()}
        model = row_scaled(self.model, tables)
        graph = quantized_graph(model, chosen, thresholds, self.biases, self.weights, compact=compact)
        if self.target == "cpu":
            graph = rewrites_upsample.woven_channels_last(graph)
        data: bytes = graph.SerializeToString()
        return data


def quantized_stage(
    stage: StageSpec, graph: bytes, measure: Measure, options: RangeOptions, *, target: str = "cpu"
) -> QuantizedStage:
    """Ranges and the best of the corrections: the one with the least error when every layer is int8.

    `target` is what the graph is for, "cpu" or "tensorrt".
    """
    inputs = inputs_of(stage, measure.batches)
    model = prepared(graph, target)
    given = _given(stage, model, options)
    moving = (EQUALIZED, BOTH) if given is not None else ()
    wanted = [name for name in options.corrections if name not in (*moving, ROUNDED)]
    equal_already = not can_be_equalized(model)
    plain = ranges_of(model, inputs, options.method) if given is None else given
    bases: dict[bool, QuantizedStage] = {False: _base(stage, model, plain, target)}
    tried: dict[str, QuantizedStage] = {}
    errors: dict[str, float] = {}

    def attempt(name: str, one: QuantizedStage) -> None:
        tried[name] = one
        errors[name] = measure.stage_error(stage, one.graph(default_modes(one.layers, INT8), compact=False))

    for correction in wanted or [PLAIN]:
        equal = correction in (EQUALIZED, BOTH)
        if equal_already and (twin := TWINS.get(correction)) in tried:
            tried[correction], errors[correction] = tried[twin], errors[twin]
            continue
        if equal not in bases:
            base = equalized(model, inputs)
            bases[equal] = _base(stage, base, ranges_of(base, inputs, options.method), target)
        attempt(correction, _corrected(bases[equal], correction, inputs))
        if errors[correction] > HOPELESS:
            return replace(tried[correction], correction=correction, calibrated=plain, errors=errors)
    best = min(errors, key=lambda name: errors[name])
    if ROUNDED in options.corrections:
        rounded = _for_inputs(bases[best in (EQUALIZED, BOTH)], inputs)
        if rounded is not None:
            attempt(f"{best}, {ROUNDED}", _corrected(rounded, best, inputs))
            best = min(errors, key=lambda name: errors[name])
    return replace(tried[best], correction=best, calibrated=plain, errors=errors)


def _base(
    stage: StageSpec, model: onnx.ModelProto, ranges: Mapping[str, TensorRange], target: str
) -> QuantizedStage:
    """The stage with its weights rounded to the nearest and its own biases."""
    layers = layers_of(model)
    weights = nearest_weights(row_scaled(model), [one for one in layers if one.parameters >= SMALLEST_WEIGHT])
    return QuantizedStage(
        stage=stage,
        model=model,
        layers=layers,
        ranges=ranges,
        weights=weights,
        biases={},
        correction=PLAIN,
        calibrated=ranges,
        errors={},
        target=target,
    )


def _for_inputs(base: QuantizedStage, inputs: Sequence[Inputs]) -> QuantizedStage | None:
    """The stage with its weights rounded for their inputs; None where that changes none."""
    modes = default_modes(base.layers, INT8)
    layers = [layer for layer in base.layers if layer.name in modes]
    weights = weights_for_inputs(base.model, layers, base.weights, inputs)
    return replace(base, weights={**base.weights, **weights}) if weights else None


def _corrected(base: QuantizedStage, correction: str, inputs: Sequence[Inputs]) -> QuantizedStage:
    if correction not in (CORRECTED, BOTH):
        return base
    thresholds = {name: found.threshold for name, found in base.ranges.items()}
    modes = default_modes(base.layers, INT8)
    return replace(base, biases=corrected_biases(base.model, modes, thresholds, inputs, base.weights))


def _given(
    stage: StageSpec, model: onnx.ModelProto, options: RangeOptions
) -> Mapping[str, TensorRange] | None:
    """The stage's ranges if they need not be read off drawings; IntegrityError when one is missing."""
    if not options.ranges:
        return None
    found = options.ranges.get(stage.name, {})
    missing = [name for name in activations_of(model) if name not in found]
    if missing:
        problem = f"the calibration cache has no range for {len(missing)} tensors of {stage.name}"
        raise IntegrityError(f"{problem}, such as {missing[0]!r}", AGAIN_HINT)
    return found


def prepared(graph: bytes, target: str = "cpu") -> onnx.ModelProto:
    """The float graph in the form that int8 needs, whether or not that is the fastest in float.

    Products that read one tensor become one product on the CPU (ONNX Runtime leaves products in float that
    share one quantized tensor; TensorRT does so with products that are sliced apart), and transposed
    convolutions become convolutions (no backend runs the former in int8).
    """
    model = ir.from_proto(onnx.load_from_string(graph))
    rewrites_upsample.upsample_by_crop(model)
    rewrites_merge.merge_conditions(model)
    if target == "cpu":
        rewrites_merge.merge_linears(model)
    return ir.to_proto(model)


def inputs_of(stage: StageSpec, batches: Sequence[Batch]) -> list[Inputs]:
    """The stage's inputs in every drawing."""
    return [{spec.name: batch.tensors[spec.name] for spec in stage.inputs} for batch in batches]
