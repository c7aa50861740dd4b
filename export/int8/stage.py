"""One stage made ready for int8: ranges from real samples, and the corrections that help it most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx
import onnx_ir as ir

from textual_vision.calibration.cache import AGAIN_HINT, TensorRange
from textual_vision.calibration.ranges import AUTO
from textual_vision.export.int8.bias_correction import corrected_biases
from textual_vision.export.int8.embeddings import SCALED, scale_rows
from textual_vision.export.int8.equalization import can_be_equalized, equalize
from textual_vision.export.int8.gptq import gptq_weights
from textual_vision.export.int8.layers import (
    INT8,
    MIN_WEIGHT_VALUES,
    QUANTIZED,
    QuantizableLayer,
    activations_to_calibrate,
    default_modes,
    quantizable_layers,
    uncalibrated,
)
from textual_vision.export.int8.observer import calibrate_ranges
from textual_vision.export.int8.qdq import Bias, quantize_graph
from textual_vision.export.int8.score import Evaluator
from textual_vision.export.int8.weights import QuantizedWeight, round_to_nearest_weights
from textual_vision.export.model.batch import Inputs, ReferenceBatch, batches_of_stage
from textual_vision.export.passes import conv_transpose as conv_transpose
from textual_vision.export.passes import fuse_linears as fuse_linears
from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.manifest import StageSpec

PLAIN, BIAS_CORRECTED, EQUALIZED, BIAS_AND_EQUALIZED, GPTQ = (
    "none",
    "bias_corrected",
    "equalized",
    "bias_and_equalized",
    "gptq",
)
# Of the codes wrong when every layer is int8: no correction makes up for it. Of .24 the best left .20.
HOPELESS = 0.2
CORRECTIONS = (PLAIN, BIAS_CORRECTED, EQUALIZED, BIAS_AND_EQUALIZED, GPTQ)
EQUIVALENT = {EQUALIZED: PLAIN, BIAS_AND_EQUALIZED: BIAS_CORRECTED}  # without layer norms


@dataclass(frozen=True, kw_only=True)
class RangeOptions:
    """`method` of ranges (see `calibration.ranges`) and the `corrections` that are tried.

    GPTQ, weights rounded for their real inputs, is tried on top of the best of the others.

    `ranges`, stage → tensor → range, spares reading them off the samples; corrections that move ranges are
    then not tried.
    """

    method: str = AUTO
    corrections: tuple[str, ...] = CORRECTIONS
    ranges: Mapping[str, Mapping[str, TensorRange]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class QuantizedStage:
    """A stage ready to be written with any modes: `model` in float (maybe equalized), and what int8 needs.

    `weights` are the layers' in int8 by their names; of large tables those whose rows are divided by their
    magnitudes (see `scale_rows`).
    """

    stage: StageSpec
    model: onnx.ModelProto
    layers: tuple[QuantizableLayer, ...]
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
        model = scale_rows(self.model, tables)
        graph = quantize_graph(model, chosen, thresholds, self.biases, self.weights, compact=compact)
        if self.target == "cpu":
            graph = conv_transpose.interleave_channels_last(graph)
        data: bytes = graph.SerializeToString()
        return data


def quantize_stage(
    stage: StageSpec, graph: bytes, evaluator: Evaluator, options: RangeOptions, *, target: str = "cpu"
) -> QuantizedStage:
    """Ranges and the best of the corrections: the one with the least error when every layer is int8.

    `target` is what the graph is for, "cpu" or "tensorrt".
    """
    inputs = inputs_of(stage, evaluator.batches)
    model = prepare_graph(graph, target)
    given = _given(stage, model, options)
    moving = (EQUALIZED, BIAS_AND_EQUALIZED) if given is not None else ()
    wanted = [name for name in options.corrections if name not in (*moving, GPTQ)]
    equal_already = not can_be_equalized(model)
    plain = calibrate_ranges(model, inputs, options.method) if given is None else given
    bases: dict[bool, QuantizedStage] = {False: _base(stage, model, plain, target)}
    tried: dict[str, QuantizedStage] = {}
    errors: dict[str, float] = {}

    def attempt(name: str, one: QuantizedStage) -> None:
        tried[name] = one
        errors[name] = evaluator.stage_error(stage, one.graph(default_modes(one.layers, INT8), compact=False))

    for correction in wanted or [PLAIN]:
        equal = correction in (EQUALIZED, BIAS_AND_EQUALIZED)
        if equal_already and (twin := EQUIVALENT.get(correction)) in tried:
            tried[correction], errors[correction] = tried[twin], errors[twin]
            continue
        if equal not in bases:
            base = equalize(model, inputs)
            bases[equal] = _base(stage, base, calibrate_ranges(base, inputs, options.method), target)
        attempt(correction, _corrected(bases[equal], correction, inputs))
        if errors[correction] > HOPELESS:
            return replace(tried[correction], correction=correction, calibrated=plain, errors=errors)
    best = min(errors, key=lambda name: errors[name])
    if GPTQ in options.corrections:
        rounded = _for_inputs(bases[best in (EQUALIZED, BIAS_AND_EQUALIZED)], inputs)
        if rounded is not None:
            attempt(f"{best}, {GPTQ}", _corrected(rounded, best, inputs))
            best = min(errors, key=lambda name: errors[name])
    return replace(tried[best], correction=best, calibrated=plain, errors=errors)


def _base(
    stage: StageSpec, model: onnx.ModelProto, ranges: Mapping[str, TensorRange], target: str
) -> QuantizedStage:
    """The stage with its weights rounded to the nearest and its own biases."""
    layers = quantizable_layers(model)
    constant = {name for name, found in ranges.items() if found.is_constant}
    in_float = uncalibrated(model, layers, constant)
    layers = tuple(replace(layer, is_calibrated=layer.name not in in_float) for layer in layers)
    weights = round_to_nearest_weights(
        scale_rows(model), [one for one in layers if one.parameters >= MIN_WEIGHT_VALUES]
    )
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
    weights = gptq_weights(base.model, layers, base.weights, inputs)
    return replace(base, weights={**base.weights, **weights}) if weights else None


def _corrected(base: QuantizedStage, correction: str, inputs: Sequence[Inputs]) -> QuantizedStage:
    if correction not in (BIAS_CORRECTED, BIAS_AND_EQUALIZED):
        return base
    thresholds = {name: found.threshold for name, found in base.ranges.items()}
    modes = default_modes(base.layers, INT8)
    return replace(base, biases=corrected_biases(base.model, modes, thresholds, inputs, base.weights))


def _given(
    stage: StageSpec, model: onnx.ModelProto, options: RangeOptions
) -> Mapping[str, TensorRange] | None:
    """The stage's ranges if they need not be read off samples; IntegrityError when one is missing."""
    if not options.ranges:
        return None
    found = options.ranges.get(stage.name, {})
    missing = [name for name in activations_to_calibrate(model) if name not in found]
    if missing:
        problem = f"the calibration cache has no range for {len(missing)} tensors of {stage.name}"
        raise IntegrityError(f"{problem}, such as {missing[0]!r}", AGAIN_HINT)
    return found


def prepare_graph(graph: bytes, target: str = "cpu") -> onnx.ModelProto:
    """The float graph in the form that int8 needs, whether or not that is the fastest in float.

    Products that read one tensor become one product on the CPU (ONNX Runtime leaves products in float that
    share one quantized tensor; TensorRT does so with products that are sliced apart), and transposed
    convolutions become convolutions (no backend runs the former in int8).
    """
    model = ir.from_proto(onnx.load_from_string(graph))
    conv_transpose.replace_conv_transpose_by_crop(model)
    fuse_linears.fuse_film_linears(model)
    if target == "cpu":
        fuse_linears.fuse_parallel_linears(model)
    return ir.to_proto(model)


def inputs_of(stage: StageSpec, batches: Sequence[ReferenceBatch]) -> list[Inputs]:
    """The stage's inputs in every sample."""
    found = batches_of_stage(batches, stage)
    return [{spec.name: batch.tensors[spec.name] for spec in stage.inputs} for batch in found]
