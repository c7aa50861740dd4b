"""The rewrites of a graph in their order: each is applied, measured, and kept or not.

Rewrites that save work on every machine are always kept. Where the gain depends on the machine, a preset of
the target chooses among the variants: a clock would choose otherwise in the next build. All variants are
timed for the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from textual_vision.export.graph import cleanup, naming
from textual_vision.export.inference_network.network import SPECIALIZE_LATENT
from textual_vision.export.passes import conv_transpose, folding, fuse_linears, shapes
from textual_vision.export.passes.measurement import (
    BrokenRewriteError,
    GraphChange,
    RewriteContext,
    RewriteSessions,
    measure_changes,
    unmeasured_result,
)
from textual_vision.export.passes.operators import check_operators
from textual_vision.export.results import RewriteResult
from textual_vision.runtime.errors import UsageError

GraphPass = Callable[[ir.Model], bool]  # changes the model in place; returns whether it changed anything

CONV_TRANSPOSE = "conv-transpose"
UNCHANGED, CROP, CONV3X3, PHASES = "unchanged", "crop", "3x3", "phases"
INT8_CONV_TRANSPOSE = f"{CONV_TRANSPOSE}-{CROP}"  # the form of int8 graphs, whatever is fastest in float
TARGETS = ("cpu", "tensorrt")
TIMING_SECONDS = 0.02  # for each variant, for the report

# Exact, and less work on every machine; in this order.
REWRITES: Mapping[str, GraphPass] = {
    "fold-constants": folding.fold_constants,
    "fold-batch-norm": folding.fold_batch_norm,
    "simplify": folding.simplify,
    "fuse-key-transposes": shapes.fuse_key_transposes,
    "static-reshapes": shapes.make_reshapes_static,
    "fuse-group-gathers": shapes.fuse_group_gathers,
    "fold-attention-scale": folding.fold_attention_scale,
    "fold-codebook-distance": folding.fold_codebook_distance,
    "fold-film": folding.fold_film,
}
# Exact, but the gain depends on the machine: the alternatives of each name of --no-rewrite.
PRESET_REWRITES: Mapping[str, Mapping[str, GraphPass]] = {
    "fuse-film-linears": {"fuse-film-linears": fuse_linears.fuse_film_linears},
    "fuse-parallel-linears": {"fuse-parallel-linears": fuse_linears.fuse_parallel_linears},
    CONV_TRANSPOSE: {
        f"{CONV_TRANSPOSE}-{CROP}": conv_transpose.replace_conv_transpose_by_crop,
        f"{CONV_TRANSPOSE}-{CONV3X3}": conv_transpose.replace_conv_transpose_by_3x3,
        f"{CONV_TRANSPOSE}-{PHASES}": conv_transpose.replace_conv_transpose_by_phases,
    },
}
# docs/notes/2026-12-01-repeatable-builds.md has the measurements on CPUs. TensorRT has fast transposed
# convolutions in float.
PRESET_CHOICES: Mapping[str, Mapping[str, str]] = {
    "cpu": {
        "fuse-film-linears": "fuse-film-linears",
        "fuse-parallel-linears": UNCHANGED,
        CONV_TRANSPOSE: f"{CONV_TRANSPOSE}-{PHASES}",
    },
    "tensorrt": {
        "fuse-film-linears": "fuse-film-linears",
        "fuse-parallel-linears": UNCHANGED,
        CONV_TRANSPOSE: UNCHANGED,
    },
}
REWRITE_NAMES = (SPECIALIZE_LATENT, *REWRITES, *PRESET_REWRITES)


@dataclass(frozen=True, kw_only=True)
class RewrittenGraphs:
    """`graph` for float precisions; `without_conv_transpose` is the one that int8 starts from."""

    graph: bytes
    without_conv_transpose: bytes
    results: tuple[RewriteResult, ...]


def check_rewrites(names: Sequence[str], target: str) -> None:
    """UsageError unless every name is that of a rewrite and `target` one of TARGETS."""
    if target not in TARGETS:
        raise UsageError(f"unknown target {target!r}", f"choose one of: {', '.join(TARGETS)}")
    for name in names:
        if name not in REWRITE_NAMES:
            raise UsageError(f"unknown rewrite {name!r}", f"choose one of: {', '.join(REWRITE_NAMES)}")


def rewrite_graph(graph: bytes, context: RewriteContext, *, without: Sequence[str] = ()) -> RewrittenGraphs:
    """Apply every rewrite that pays to the stage's serialized graph, except those named in `without`.

    A rewrite whose graph the backend does not load is left out, with a result that says so. Raises
    UnloadableGraphError when the graph does not load before any rewrite, and UsageError for control flow.
    """
    try:
        return _rewrite(graph, context, without)
    except BrokenRewriteError as error:
        rest = rewrite_graph(graph, context, without=(*without, error.change.rewrite))
        reason = f"the rewritten graph does not load: {error.reason}"
        return replace(rest, results=(*rest.results, unmeasured_result(error.change, context.stage, reason)))


def _rewrite(graph: bytes, context: RewriteContext, without: Sequence[str]) -> RewrittenGraphs:
    changes, parsed = [], _ParsedGraph()
    for name, change in REWRITES.items():
        after = graph if name in without else parsed.apply_pass(graph, change)
        if after is not graph:
            changes.append(GraphChange(rewrite=name, before=graph, after=after))
            graph = after
    check_operators(context.stage.name, _read(graph))
    sessions = RewriteSessions(context)
    results = measure_changes(changes, context, sessions)
    without_conv_transpose = graph
    for name, variants in PRESET_REWRITES.items():
        if name == CONV_TRANSPOSE and INT8_CONV_TRANSPOSE not in without:  # the last of them
            without_conv_transpose = parsed.apply_pass(graph, variants[INT8_CONV_TRANSPOSE])
        if name not in without:
            sessions.forget_all_but(graph)
            made = {key: parsed.apply_pass(graph, one) for key, one in variants.items() if key not in without}
            graph, found = _choose(graph, name, made, context, sessions)
            results += found
    named = _named(graph)
    return RewrittenGraphs(
        graph=named,
        without_conv_transpose=named if without_conv_transpose is graph else _named(without_conv_transpose),
        results=tuple(results),
    )


def apply_pass(graph: bytes, change: GraphPass) -> bytes:
    """Return the serialized graph after `change` and a cleanup; the same object when nothing matched."""
    return _ParsedGraph().apply_pass(graph, change)


class _ParsedGraph:
    """A graph parsed once for all passes that change nothing in it, or that follow each other."""

    def __init__(self) -> None:
        self._graph: bytes | None = None  # the serialized form of the model
        self._model: ir.Model | None = None

    def apply_pass(self, graph: bytes, change: GraphPass) -> bytes:
        """See the function of the same name."""
        if self._model is None or self._graph is not graph:
            self._model, self._graph = _read(graph), graph
        if change(self._model):
            cleanup.tidy(self._model)
            self._graph = ir.to_proto(self._model).SerializeToString()
        return self._graph


def _read(graph: bytes) -> ir.Model:
    return ir.from_proto(onnx.load_from_string(graph))


def _choose(
    graph: bytes, name: str, made: Mapping[str, bytes], context: RewriteContext, sessions: RewriteSessions
) -> tuple[bytes, list[RewriteResult]]:
    """Return the best of `graph` and its variants `made` for the target, and every variant's result."""
    if all(one is graph for one in made.values()):
        return graph, []
    changes = [GraphChange(rewrite=variant, before=graph, after=one) for variant, one in made.items()]
    results = measure_changes(changes, context, sessions, seconds=TIMING_SECONDS)
    best, reason = PRESET_CHOICES[context.target][name], f"known not to pay on {context.target}"
    decided = [
        replace(one, applied=one.rewrite == best, reason="" if one.rewrite == best else reason)
        for one in results
    ]
    return made.get(best, graph), decided


def _named(graph: bytes) -> bytes:
    model = _read(graph)
    naming.assign_names(model)
    named = onnx.shape_inference.infer_shapes(ir.to_proto(model), strict_mode=True)
    data: bytes = named.SerializeToString()
    return data
