"""Export and rewrite one stage: the work that a build does in its own process or in a worker process."""

from __future__ import annotations

from dataclasses import dataclass

from textual_vision.export.host.gc_tuning import refreeze_gc
from textual_vision.export.host.step_cache import unzip_bytes, zip_bytes
from textual_vision.export.inference_network.network import SPECIALIZE_LATENT
from textual_vision.export.model.batch import ReferenceBatch, batches_of_stage
from textual_vision.export.model.stage import StagedModel, inference_stage
from textual_vision.export.passes.manager import rewrite_graph
from textual_vision.export.passes.measurement import RewriteContext
from textual_vision.export.results import RewriteResult, bytes_from_results, rewrites_from_bytes
from textual_vision.runtime.backends.session import default_backend

GRAPH_FILE, INT8_SOURCE_FILE, REWRITES_FILE = "graph.onnx", "without_conv_transpose.onnx", "rewrites.json"


@dataclass(frozen=True, kw_only=True)
class StageExportSpec:
    """How a build exports and rewrites the stages of its model.

    `source` and `tokens` are what `load_checked_model` takes. `no_rewrite` names the rewrites that are left
    out. `target` is the device that the graphs are for.
    """

    source: str
    opset: int
    tokens: int | None
    target: str
    no_rewrite: tuple[str, ...] = ()

    @property
    def uses_inference_modules(self) -> bool:
        """Whether a stage's `inference_module` is exported in place of its module."""
        return SPECIALIZE_LATENT not in self.no_rewrite


@dataclass(frozen=True, kw_only=True)
class ExportedStage:
    """A stage's serialized graphs: as `exported`, as rewritten (`graph`), and as int8 starts from.

    `int8_source` has no transposed convolutions, see `passes.manager.RewrittenGraphs`.
    """

    exported: bytes
    graph: bytes
    int8_source: bytes
    rewrites: tuple[RewriteResult, ...]


def export_stage(model: StagedModel, spec: StageExportSpec, name: str, example: ReferenceBatch) -> bytes:
    """Return the serialized graph of the stage called `name`; raises what `onnx_from_stage` raises."""
    # PyTorch's compiler takes 2 s to import: a worker that was started before has that much more time.
    from textual_vision.export.tracing.exporter import ExportOptions, onnx_from_stage

    text = model.text
    fixed = text.max_tokens if text is not None and text.fixed_length else None
    options = ExportOptions(
        opset=spec.opset,
        tokens=fixed if spec.tokens is None else spec.tokens,
        max_tokens=1 if text is None else text.max_tokens,
    )
    stage = inference_stage(model.stage(name)) if spec.uses_inference_modules else model.stage(name)
    (first, *_) = batches_of_stage([example], stage.spec)
    data: bytes = onnx_from_stage(stage, first.tensors, options).SerializeToString()
    refreeze_gc()
    return data


def rewrite_stage(
    model: StagedModel, spec: StageExportSpec, name: str, graph: bytes, example: ReferenceBatch
) -> bytes:
    """Return the stage's rewritten graphs and what each rewrite changed, for `exported_stage_from_bytes`."""
    (first, *_) = batches_of_stage([example], model.stage(name).spec)
    context = RewriteContext(
        stage=model.stage(name).spec, batch=first, backend=default_backend(), target=spec.target
    )
    made = rewrite_graph(graph, context, without=spec.no_rewrite)
    rewrites = bytes_from_results(made.results)
    return zip_bytes(
        {GRAPH_FILE: made.graph, INT8_SOURCE_FILE: made.without_conv_transpose, REWRITES_FILE: rewrites}
    )


def exported_stage_from_bytes(exported: bytes, rewritten: bytes) -> ExportedStage:
    """Return a stage's graphs from the results of `export_stage` and `rewrite_stage`."""
    files = unzip_bytes(rewritten)
    return ExportedStage(
        exported=exported,
        graph=files[GRAPH_FILE],
        int8_source=files[INT8_SOURCE_FILE],
        rewrites=rewrites_from_bytes(files[REWRITES_FILE]),
    )
