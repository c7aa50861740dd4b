"""Which precisions there are, and how each is made of the float32 graphs."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from textual_vision.calibration.cache import TensorRange
from textual_vision.calibration.ranges import AUTO
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.runtime.errors import UsageError, choice_hint
from textual_vision.runtime.generation.program import Program
from textual_vision.runtime.manifest import StageSpec


@dataclass(frozen=True, kw_only=True)
class FloatGraphs:
    """What a precision starts from.

    `program` is how the stages run; `fp32` holds a serialized graph per stage name (for int8 without
    transposed convolutions); `batches` are real samples with every stage's inputs, to calibrate on and to
    look for overflow, others than those that the result is compared on; `target` is what the graphs are
    for: "cpu" or "tensorrt"; `tolerance` is int8's (see `int8.tolerance.parse_tolerance`), None the default;
    `range_method` is how int8's ranges are found (see `calibration.ranges`); `ranges`, stage → tensor →
    range, are those of a cache, if there is one; `stage_results`, by stage, are results of `convert_stage`
    so far.
    """

    program: Program
    fp32: Mapping[str, bytes]
    batches: Sequence[ReferenceBatch]
    target: str
    tolerance: str | None = None
    range_method: str = AUTO
    ranges: Mapping[str, Mapping[str, TensorRange]] = field(default_factory=dict)
    stage_results: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """The stages in running order."""
        return self.program.stages


@dataclass(frozen=True, kw_only=True)
class PrecisionGraphs:
    """A graph per stage name, and what making them found out, as plain JSON.

    `ranges`, stage → tensor → range, are those that were calibrated; `files`, by their path in the bundle,
    what else it gets.
    """

    graphs: dict[str, bytes]
    notes: dict[str, object] = field(default_factory=dict)
    ranges: Mapping[str, Mapping[str, TensorRange]] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


Convert = Callable[[FloatGraphs], PrecisionGraphs]
Part = Callable[[FloatGraphs, StageSpec], object]


def fp32_from_float(source: FloatGraphs) -> PrecisionGraphs:
    """The float32 graphs themselves."""
    return PrecisionGraphs(graphs=dict(source.fp32))


# name → "module:function" of a `Convert`; a module is imported only when its precision is asked for
PRECISIONS = {
    "fp32": "textual_vision.export.precision.registry:fp32_from_float",
    "fp16": "textual_vision.export.precision.fp16:fp16_from_float",
    "int8": "textual_vision.export.int8.convert:int8_from_float",
}
# name → "module:function" of a `Part`: of the work, what one stage's graph is enough for
STAGE_CONVERTERS = {
    "fp16": "textual_vision.export.precision.fp16:fp16_stage_from_float",
    "int8": "textual_vision.export.int8.convert:int8_stage_from_float",
}


def check_precision(name: str) -> None:
    """UsageError unless `name` is one of PRECISIONS and what makes it is there."""
    if name not in PRECISIONS:
        raise UsageError(f"unknown precision {name!r}", choice_hint(name, PRECISIONS))
    module = PRECISIONS[name].partition(":")[0]
    if importlib.util.find_spec(module) is None:
        raise UsageError(f"precision {name!r} is not part of this installation: no {module}", "use another")


def convert(name: str, source: FloatGraphs) -> PrecisionGraphs:
    """The graphs of precision `name`; those for TensorRT without int8 constants that it refuses."""
    make: Convert = _function(PRECISIONS[name])
    made = make(source)
    if source.target == "cpu":
        return made
    from textual_vision.export.precision.lossless_storage import expand_constants

    graphs = {stage: expand_constants(graph) for stage, graph in made.graphs.items()}
    return dataclasses.replace(made, graphs=graphs)


def convert_stage(name: str, source: FloatGraphs, stage: StageSpec) -> object:
    """What of precision `name` can be made of the stage's graph alone, for `FloatGraphs.parts`."""
    make: Part = _function(STAGE_CONVERTERS[name])
    return make(source, stage)


def _function(place: str) -> Callable[..., Any]:
    module, _, function = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found
