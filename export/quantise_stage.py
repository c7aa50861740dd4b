"""One stage made ready for int8: ranges from real drawings, and the corrections that help it most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx
import onnx_ir as ir

from textual_vision.calibration.cache import AGAIN_HINT, TensorRange
from textual_vision.calibration.ranges import AUTO
from textual_vision.calibration.samples import Inputs
from textual_vision.export import rewrites_merge, rewrites_upsample
from textual_vision.export.quantise_correct import corrected_biases, equalised
from textual_vision.export.quantise_measure import Measure
from textual_vision.export.quantise_observe import ranges_of
from textual_vision.export.quantise_plan import INT8, Layer, activations_of, default_modes, layers_of
from textual_vision.export.quantise_tables import row_scaled
from textual_vision.export.quantise_write import Bias, quantised_graph
from textual_vision.export.samples import Batch
from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.manifest import StageSpec

PLAIN, CORRECTED, EQUALISED, BOTH = "plain", "corrected", "equalised", "both"
CORRECTIONS = (PLAIN, CORRECTED, EQUALISED, BOTH)


@dataclass(frozen=True, kw_only=True)
class RangeOptions:
    """`method` of ranges (see `calibration.ranges`) and the `corrections` that are tried.

    `ranges`, stage → tensor → range, spares reading them off the drawings; corrections that move ranges are
    then not tried.
    """

    method: str = AUTO
    corrections: tuple[str, ...] = CORRECTIONS
    ranges: Mapping[str, Mapping[str, TensorRange]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class QuantisedStage:
    """A stage ready to be written with any modes: `model` in float (maybe equalised), and what int8 needs."""

    stage: StageSpec
    model: onnx.ModelProto
    layers: tuple[Layer, ...]
    ranges: Mapping[str, TensorRange]
    biases: Mapping[str, Bias]
    correction: str
    calibrated: Mapping[str, TensorRange]  # as read off the float graph, before any equalisation
    errors: Mapping[str, float]  # by correction: what was compared

    def graph(self, modes: Mapping[str, str]) -> bytes:
        """The stage's graph with each layer in its mode, serialised."""
        chosen = {layer.name for layer in self.layers if modes.get(layer.name) is not None}
        thresholds = {name: found.threshold for name, found in self.ranges.items()}
        graph = quantised_graph(self.model, {n: modes[n] for n in chosen}, thresholds, self.biases)
        data: bytes = graph.SerializeToString()
        return data


def quantised_stage(
    stage: StageSpec, graph: bytes, measure: Measure, options: RangeOptions
) -> QuantisedStage:
    """Ranges and the best of the corrections: the one with the least error when every layer is int8."""
    inputs = inputs_of(stage, measure.batches)
    model = prepared(graph)
    given = _given(stage, model, options)
    wanted = [name for name in options.corrections if given is None or name in (PLAIN, CORRECTED)]
    plain = ranges_of(model, inputs, options.method) if given is None else given
    best: QuantisedStage | None = None
    errors: dict[str, float] = {}
    bases: dict[bool, tuple[onnx.ModelProto, Mapping[str, TensorRange]]] = {False: (model, plain)}
    for correction in wanted or [PLAIN]:
        equal = correction in (EQUALISED, BOTH)
        if equal not in bases:
            base = equalised(model, inputs)
            bases[equal] = (base, ranges_of(base, inputs, options.method))
        tried = _tried(stage, correction, *bases[equal], inputs)
        errors[correction] = measure.stage_error(stage, tried.graph(default_modes(tried.layers, INT8)))
        if best is None or errors[correction] < errors[best.correction]:
            best = tried
    assert best is not None
    return replace(best, calibrated=plain, errors=errors)


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


def _tried(
    stage: StageSpec,
    correction: str,
    model: onnx.ModelProto,
    ranges: Mapping[str, TensorRange],
    inputs: Sequence[Inputs],
) -> QuantisedStage:
    layers = layers_of(model)
    biases: Mapping[str, Bias] = {}
    if correction in (CORRECTED, BOTH):
        thresholds = {name: found.threshold for name, found in ranges.items()}
        biases = corrected_biases(model, default_modes(layers, INT8), thresholds, inputs)
    return QuantisedStage(
        stage=stage,
        model=model,
        layers=layers,
        ranges=ranges,
        biases=biases,
        correction=correction,
        calibrated=ranges,
        errors={},
    )


def prepared(graph: bytes) -> onnx.ModelProto:
    """The float graph in the form that int8 needs, whether or not that is the fastest in float.

    Products that read one tensor become one product (ONNX Runtime leaves products in float that share one
    quantised tensor), transposed convolutions become convolutions (no backend runs the former in int8), and
    large tables get a magnitude for every row.
    """
    model = ir.from_proto(onnx.load_from_string(graph))
    rewrites_upsample.upsample_by_crop(model)
    rewrites_merge.merge_conditions(model)
    rewrites_merge.merge_linears(model)
    return row_scaled(ir.to_proto(model))


def inputs_of(stage: StageSpec, batches: Sequence[Batch]) -> list[Inputs]:
    """The stage's inputs in every drawing."""
    return [{spec.name: batch.tensors[spec.name] for spec in stage.inputs} for batch in batches]
