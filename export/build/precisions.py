"""The graphs of every precision of a build: early what one stage is enough for, then the whole."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import onnx
import onnx_ir as ir

from textual_vision.calibration.cache import Origin, origin_of
from textual_vision.export.build.calibration import (
    FOLDER,
    calibration_files,
    notes_of_calibration,
    ranges_from_cache,
)
from textual_vision.export.build.float_graphs import ExportedStage, StageExportJobs
from textual_vision.export.build.options import BuildOptions
from textual_vision.export.graph.opset import MIN_OPSET, check, expand_partial_shapes, opset_of
from textual_vision.export.graph.pipeline_graph import merged_from_stages
from textual_vision.export.host.step_cache import StepCache, unzip_bytes, zip_bytes
from textual_vision.export.model.batch import ReferenceBatch, bytes_from_batches
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.precision.registry import (
    STAGE_CONVERTERS,
    FloatGraphs,
    PrecisionGraphs,
    convert,
    convert_stage,
)
from textual_vision.export.results import MERGED
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.graph.check import check_graph
from textual_vision.runtime.noise import RECIPE
from textual_vision.runtime.version import __version__

NOTES_FILE = "notes.json"
StageResults = dict[str, dict[str, object]]  # by precision and stage, see `precision.convert_stage`


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """A build under way."""

    model: StagedModel
    options: BuildOptions
    steps: StepCache


def floats_of(
    context: BuildContext, begun: StageExportJobs, calibration: tuple[ReferenceBatch, ...]
) -> tuple[dict[str, ExportedStage], StageResults]:
    """The float graphs by stage, and by precision and stage what was made of them while others went on."""
    found: dict[str, ExportedStage] = {}
    parts: StageResults = {name: {} for name in context.options.precisions}
    for stage, floats, is_early in begun.stages():
        found[stage] = floats
        for name in parts if is_early else ():
            # Whether a cache's ranges fit, all exported graphs tell.
            if name in STAGE_CONVERTERS and not (name == "int8" and context.options.ranges):
                source = _source(context, name, {stage: floats}, calibration)
                work = partial(convert_stage, name, source, context.model.stage(stage).spec)
                parts[name][stage] = context.steps.timed(f"begin {name} of {stage}", work)
    return found, parts


def precision_of(
    context: BuildContext,
    name: str,
    floats: Mapping[str, ExportedStage],
    calibration: tuple[ReferenceBatch, ...],
    parts: Mapping[str, object],
) -> PrecisionGraphs:
    """The precision's graphs, the merged one among them."""
    options = context.options
    if name == "fp32":
        calibration = ()
    origin = _origin(
        context, calibration, {stage.name: floats[stage.name].exported for stage in context.model.stages}
    )
    given = options.ranges if name == "int8" else None
    source = dataclasses.replace(
        _source(context, name, floats, calibration),
        ranges={} if given is None else ranges_from_cache(given, origin, options.calibration_method),
        stage_results=parts,
    )
    depends = [name, dict(source.fp32), source.target, bytes_from_batches(calibration), options.merged]
    if name == "int8":
        cached = None if given is None else given.read_bytes()
        depends += [source.budget, source.range_method, cached, origin.digest]
    files = unzip_bytes(
        context.steps.run(f"make {name}", depends, partial(_converted, context, name, source, origin))
    )
    notes = json.loads(files.pop(NOTES_FILE))
    others = {path: files.pop(path) for path in list(files) if path.startswith(f"{FOLDER}/")}
    if name == "int8":
        ranges = options.calibration_method if given is None else f"the cache {given.name}"
        offered = (
            options.calibration_count if options.calibration_random else len(options.calibration_prompts)
        )
        notes["calibration"] = notes_of_calibration(context.model, calibration, offered, ranges)
    return PrecisionGraphs(notes=notes, graphs=files, files=others)


def _source(
    context: BuildContext,
    name: str,
    floats: Mapping[str, ExportedStage],
    calibration: tuple[ReferenceBatch, ...],
) -> FloatGraphs:
    """What the precision starts from, of the stages that there are graphs of."""
    options, order = context.options, [stage.name for stage in context.model.stages if stage.name in floats]
    return FloatGraphs(
        stages=tuple(stage.spec for stage in context.model.stages),
        fp32={stage: floats[stage].lowered if name == "int8" else floats[stage].graph for stage in order},
        batches=calibration,
        target=options.target,
        budget=options.int8_tolerance,
        range_method=options.calibration_method,
    )


def _origin(
    context: BuildContext, batches: Sequence[ReferenceBatch], exported: Mapping[str, bytes]
) -> Origin:
    """What ranges depend on. The exported graphs, not the rewritten: between those, time decides."""
    return origin_of(
        [prompt for batch in batches for prompt in batch.prompts],
        [seed for batch in batches for seed in batch.seeds],
        context.model.tokenizer,
        {"noise": RECIPE, "tokens": context.options.prompt_length, "longest": context.model.text.max_tokens},
        {**exported, "rewrites left out": json.dumps(sorted(context.options.no_rewrite)).encode()},
    )


def _converted(context: BuildContext, name: str, source: FloatGraphs, origin: Origin) -> bytes:
    made = convert(name, source)
    graphs = {stage: described(graph, context.model, stage, name) for stage, graph in made.graphs.items()}
    if context.options.merged:
        merged = merged_from_stages(source.stages, made.graphs)
        graphs[MERGED] = described(merged, context.model, MERGED, name)
    drawings = sum(len(batch.prompts) for batch in source.batches)
    files = calibration_files(origin, made.ranges, drawings) if made.ranges else {}
    return zip_bytes({**graphs, **files, NOTES_FILE: json.dumps(made.notes).encode()})


def described(graph: bytes, model: StagedModel, stage: str, precision: str) -> bytes:
    """The graph with its producer and metadata: model, stage, precision, checkpoint."""
    proto = onnx.load_from_string(graph)
    if opset_of(proto) == MIN_OPSET:
        found = ir.from_proto(proto)
        expand_partial_shapes(found)
        proto = ir.to_proto(found)
    proto.producer_name, proto.producer_version = "textual-vision", __version__
    proto.graph.name = stage
    about = {"model": model.name, "stage": stage, "precision": precision, "checkpoint": model.digest}
    onnx.helper.set_model_props(proto, about)
    data: bytes = proto.SerializeToString()
    check(data)
    _check_for_runtime(data, stage)
    return data


def _check_for_runtime(graph: bytes, stage: str) -> None:
    """UsageError unless the runtime, which reads files of strangers, would load the graph from a bundle."""
    try:
        check_graph(graph, f"{stage}.onnx")
    except IntegrityError as error:
        hint = "write that part of the module with other operators; see docs/how-to/custom-model.md"
        raise UsageError(f"the runtime refuses the graph that was exported: {error.message}", hint) from None
