"""Convert the exported stages to every precision, and submit each precision to the comparisons."""

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
    calibration_count,
    calibration_files,
    calibration_notes,
    ranges_from_cache,
)
from textual_vision.export.build.preparation import BuildContext
from textual_vision.export.build.stage_export import ExportedStage
from textual_vision.export.graph.opset import MIN_OPSET, check, expand_partial_shapes, opset_of
from textual_vision.export.graph.pipeline_graph import merged_from_stages
from textual_vision.export.host.step_cache import unzip_bytes, zip_bytes
from textual_vision.export.model.batch import ReferenceBatch, bytes_from_batches
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.precision.registry import (
    STAGE_CONVERTERS,
    FloatGraphs,
    PrecisionGraphs,
    convert,
    convert_stage,
)
from textual_vision.export.results import MERGED, RewriteResult
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.graph.check import check_graph
from textual_vision.runtime.version import __version__

NOTES_FILE = "notes.json"
StageResults = Mapping[str, Mapping[str, object]]  # by precision and stage, of `registry.convert_stage`


@dataclass(frozen=True, kw_only=True)
class ExportedGraphs:
    """The exported stages by name, in running order, and the conversions that were done meanwhile."""

    stages: Mapping[str, ExportedStage]
    stage_results: StageResults

    @property
    def rewrites(self) -> tuple[RewriteResult, ...]:
        """What each rewrite changed, stage by stage."""
        return tuple(one for stage in self.stages.values() for one in stage.rewrites)


def export_graphs(context: BuildContext) -> ExportedGraphs:
    """Return the graphs of all stages. While a worker exports some, the others are converted."""
    stages: dict[str, ExportedStage] = {}
    results: dict[str, dict[str, object]] = {name: {} for name in context.options.precisions}
    for stage, exported, others_pending in context.jobs.stages():
        stages[stage] = exported
        for precision in results if others_pending else ():
            # The calibration cache can be checked only against the exported graphs of all stages.
            checks_cache = precision == "int8" and context.options.ranges is not None
            if precision in STAGE_CONVERTERS and not checks_cache:
                source = _float_graphs(context, precision, {stage: exported})
                work = partial(convert_stage, precision, source, context.model.stage(stage).spec)
                step = f"convert {stage} to {precision}"
                results[precision][stage] = context.steps.timed(step, work)
    order = [stage.name for stage in context.model.stages]
    return ExportedGraphs(stages={name: stages[name] for name in order}, stage_results=results)


def convert_precisions(context: BuildContext, graphs: ExportedGraphs) -> dict[str, PrecisionGraphs]:
    """Return the graphs of every precision; their comparisons have started."""
    variants = {}
    for name in context.options.precisions:
        variants[name] = convert_precision(context, graphs, name)
        context.comparisons.submit(name, variants[name], reference=context.options.reference)
    return variants


def convert_precision(context: BuildContext, graphs: ExportedGraphs, name: str) -> PrecisionGraphs:
    """Return the graphs of one precision, with the graph of all stages unless the options leave it out."""
    options = context.options
    calibration = () if name == "fp32" else context.calibration
    origin = _calibration_origin(context, graphs, calibration)
    cache = options.ranges if name == "int8" else None
    source = dataclasses.replace(
        _float_graphs(context, name, graphs.stages),
        batches=calibration,
        ranges={} if cache is None else ranges_from_cache(cache, origin, options.calibration_method),
        stage_results=graphs.stage_results[name],
    )
    depends = [name, dict(source.fp32), source.target, bytes_from_batches(calibration), options.merged]
    if name == "int8":
        cached = None if cache is None else cache.read_bytes()
        depends += [source.tolerance, source.range_method, cached, origin.digest]
    work = partial(_convert_and_merge, context, name, source, origin)
    files = unzip_bytes(context.steps.run(f"convert to {name}", depends, work))
    notes = json.loads(files.pop(NOTES_FILE))
    others = {path: files.pop(path) for path in list(files) if path.startswith(f"{FOLDER}/")}
    if name == "int8":
        notes["calibration"] = _calibration_notes(context)
    return PrecisionGraphs(notes=notes, graphs=files, files=others)


def _float_graphs(context: BuildContext, precision: str, stages: Mapping[str, ExportedStage]) -> FloatGraphs:
    """Return the input of the precision's conversion, of the stages that are exported so far."""
    options, order = context.options, [stage.name for stage in context.model.stages if stage.name in stages]
    is_int8 = precision == "int8"
    return FloatGraphs(
        program=context.model.program,
        fp32={name: stages[name].int8_source if is_int8 else stages[name].graph for name in order},
        batches=context.calibration,
        target=options.target,
        tolerance=options.int8_tolerance,
        range_method=options.calibration_method,
    )


def _calibration_origin(
    context: BuildContext, graphs: ExportedGraphs, batches: Sequence[ReferenceBatch]
) -> Origin:
    """Return what calibrated ranges depend on.

    Of the graphs, those as exported: which rewrites a graph gets depends on measured times.
    """
    exported = {name: stage.exported for name, stage in graphs.stages.items()}
    return origin_of(
        [prompt for batch in batches for prompt in batch.prompts],
        [seed for batch in batches for seed in batch.seeds],
        context.model.tokenizer or b"",
        {
            "noise": [dataclasses.asdict(one) for one in context.model.noise],
            "tokens": context.options.prompt_length,
            "longest": None if context.model.text is None else context.model.text.max_tokens,
        },
        {**exported, "rewrites left out": json.dumps(sorted(context.options.no_rewrite)).encode()},
    )


def _calibration_notes(context: BuildContext) -> dict[str, object]:
    options = context.options
    cache, offered = options.ranges, len(options.calibration_prompts)
    random = calibration_count(context.model, options.calibration_count)
    return calibration_notes(
        context.model,
        context.calibration,
        offered=random if options.calibration_random else offered,
        ranges=options.calibration_method if cache is None else f"the cache {cache.name}",
    )


def _convert_and_merge(context: BuildContext, name: str, source: FloatGraphs, origin: Origin) -> bytes:
    made = convert(name, source)
    graphs = {stage: annotate(graph, context.model, stage, name) for stage, graph in made.graphs.items()}
    if context.options.merged and not context.model.loops:
        merged = merged_from_stages(source.stages, made.graphs)
        graphs[MERGED] = annotate(merged, context.model, MERGED, name)
    samples = sum(len(batch.prompts) for batch in source.batches)
    files = calibration_files(origin, made.ranges, samples) if made.ranges else {}
    return zip_bytes({**graphs, **files, NOTES_FILE: json.dumps(made.notes).encode()})


def annotate(graph: bytes, model: StagedModel, stage: str, precision: str) -> bytes:
    """Return the graph, checked, with its producer and metadata: model, stage, precision, checkpoint."""
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
    """Raise UsageError unless the runtime, which reads files of strangers, would load the graph."""
    try:
        check_graph(graph, f"{stage}.onnx")
    except IntegrityError as error:
        hint = "write that part of the module with other operators; see docs/how-to/custom-model.md"
        raise UsageError(f"the runtime refuses the graph that was exported: {error.message}", hint) from None
