"""The int8 graphs of a model: ranges from real samples, Q/DQ where it pays, corrections where they help.

`int8_from_float` is what `tv-export build --precision int8` calls. The float graphs come with samples that
hold every stage's inputs; what comes back are graphs for the same stages and what was found out, as JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from textual_vision.export.int8.layers import FLOAT, INT8, QUANTIZED, TABLE, uncalibrated
from textual_vision.export.int8.score import Evaluator
from textual_vision.export.int8.search import Search, search
from textual_vision.export.int8.stage import QuantizedStage, RangeOptions, quantize_stage
from textual_vision.export.int8.tolerance import DEFAULT_TOLERANCE, parse_tolerance
from textual_vision.export.precision.lossless_storage import compressed_graph
from textual_vision.export.precision.registry import FloatGraphs, PrecisionGraphs
from textual_vision.runtime.backends.session import default_backend
from textual_vision.runtime.errors import ToleranceError
from textual_vision.runtime.generation.program import Program
from textual_vision.runtime.manifest import StageSpec

CONV_TRANSPOSE = "ConvTranspose"
PRODUCT_OPS = ("Conv", CONV_TRANSPOSE, "Gemm", "MatMul")
RECURRENT_OPS = ("GRU", "LSTM", "RNN")
# Products without an int8 form here.
RECURRENT, BETWEEN_ACTIVATIONS, TRANSPOSED = "recurrent", "between activations", "transposed convolution"


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """How ranges are found, and the accuracy `tolerance` (see `int8.tolerance.parse_tolerance`)."""

    ranges: RangeOptions = field(default_factory=RangeOptions)
    tolerance: str = DEFAULT_TOLERANCE


def int8_from_float(source: FloatGraphs, options: Int8Options | None = None) -> PrecisionGraphs:
    """Return int8 graphs within the tolerance, as small and fast as `search` finds them.

    Raises UsageError when an activation cannot be calibrated (the message names it) and ToleranceError when
    no choice of layers meets the tolerance, or only one that leaves all in float.
    """
    options = options or Int8Options(
        ranges=_range_options(source), tolerance=source.tolerance or DEFAULT_TOLERANCE
    )
    tolerance = parse_tolerance(options.tolerance)
    stored = {name: compressed_graph(graph, notes=False) for name, graph in source.fp32.items()}
    evaluator = Evaluator(source.program, source.fp32, source.batches, default_backend(), stored)
    stages = [
        source.stage_results.get(stage.name)
        or quantize_stage(stage, source.fp32[stage.name], evaluator, options.ranges, target=source.target)
        for stage in source.stages
    ]
    # A clock would choose otherwise in the next build.
    timed = source.target == "cpu" and "milliseconds" in tolerance
    found = search(stages, evaluator, tolerance, timed=timed, thorough=source.target != "cpu")
    check_any_quantized(stages, found.modes)
    return PrecisionGraphs(
        graphs=dict(found.graphs),
        notes=_notes(stages, found, options),
        ranges={one.stage.name: one.calibrated for one in stages},
    )


def int8_stage_from_float(source: FloatGraphs, stage: StageSpec) -> QuantizedStage:
    """The stage made ready for int8; of the other stages no graph is needed for it."""
    graph = source.fp32[stage.name]
    evaluator = Evaluator(Program(stages=(stage,)), {stage.name: graph}, source.batches, default_backend())
    return quantize_stage(stage, graph, evaluator, _range_options(source), target=source.target)


def _range_options(source: FloatGraphs) -> RangeOptions:
    return RangeOptions(method=source.range_method, ranges=source.ranges)


def check_any_quantized(stages: Sequence[QuantizedStage], modes: Mapping[str, Mapping[str, str]]) -> None:
    """ToleranceError when every layer stayed in float: that is no int8, whatever its name."""
    kept = [modes.get(one.stage.name, {}).get(name, FLOAT) for one in stages for name in _names(one)]
    if not set(kept) & set(QUANTIZED):
        raise ToleranceError(
            f"within the tolerance all {len(kept)} layers stay in float: there is nothing in int8",
            "ask for less with --int8-tolerance, or build fp16: --precision fp16",
        )


def _notes(stages: Sequence[QuantizedStage], found: Search, options: Int8Options) -> dict[str, object]:
    """What a manifest and a report tell of it."""
    return {
        "method": options.ranges.method,
        "tolerance": options.tolerance,
        "warnings": [text for one in stages for text in _warnings(one)],
        "score": found.score_json(),
        "table": found.table_json(),
        "stages": {
            one.stage.name: {
                "correction": one.correction,
                "errors": dict(one.errors),
                "layers": {name: found.modes[one.stage.name].get(name, FLOAT) for name in _names(one)},
                "products": _products(one, found),
                "ranges": {
                    name: {"threshold": r.threshold, "method": r.method} for name, r in one.ranges.items()
                },
            }
            for one in stages
        },
    }


def _products(stage: QuantizedStage, found: Search) -> dict[str, object]:
    """The number of products of the stage, of those in int8, and of the others by reason."""
    reasons = Counter(found.reasons[stage.stage.name].values())
    weights = {one.output for one in stage.layers if one.kind != TABLE}
    for node in stage.model.graph.node:
        if node.op_type in RECURRENT_OPS:
            reasons[RECURRENT] += 1
        elif node.op_type in PRODUCT_OPS and node.output[0] not in weights:
            is_transposed = node.op_type == CONV_TRANSPOSE
            reasons[TRANSPOSED if is_transposed else BETWEEN_ACTIVATIONS] += 1
    modes = found.modes[stage.stage.name].values()
    in_int8 = sum(mode == INT8 for mode in modes)
    return {"int8": in_int8, "all": in_int8 + sum(reasons.values()), "reasons": dict(reasons)}


def _warnings(stage: QuantizedStage) -> list[str]:
    """Return a warning for each activation without a range that keeps layers in float."""
    constant = {name: found for name, found in stage.ranges.items() if found.is_constant}
    found = []
    for name, seen in constant.items():
        layers = sorted(uncalibrated(stage.model, stage.layers, {name}))
        if layers:
            where = f"stage {stage.stage.name!r}: activation {name!r}"
            problem = f"{where} is {seen.low:g} for every calibration prompt"
            found.append(f"{problem}; products with it stay in float: {', '.join(layers)}")
    return found


def _names(stage: QuantizedStage) -> list[str]:
    return [layer.name for layer in stage.layers]
