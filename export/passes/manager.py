"""The rewrites of a graph in their order: what each changed, what it bought, and whether it stays.

Rewrites that are less work on any machine always stay. Where it depends on the machine, variants are timed
side by side on this one (target "cpu"), or taken from what is known (target "tensorrt"); a variant that is
not faster is not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir

from textual_vision.export.graph import cleanup, naming
from textual_vision.export.inference_network.network import SPECIALIZE_LATENT
from textual_vision.export.model.batch import Array, ReferenceBatch, is_codes
from textual_vision.export.passes import conv_transpose as conv_transpose
from textual_vision.export.passes import folding as folding
from textual_vision.export.passes import fuse_linears as fuse_linears
from textual_vision.export.passes import shapes as shapes
from textual_vision.export.results import RewriteResult
from textual_vision.export.sessions.opening import open_stage_sessions
from textual_vision.export.sessions.timing import min_cpu_ms, node_count
from textual_vision.runtime.backends.session import Session
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import StageSpec

GraphPass = Callable[[ir.Model], None]

MAX_TIME_RATIO = 0.98  # of the time without it: less is within the noise of measuring
# Of each variant: a graph of 1 ms in a few turns may never be undisturbed.
CHOOSING_SECONDS = 0.1
CONV_TRANSPOSE = "conv-transpose"
UNCHANGED, CROP, CONV3X3, PHASES = "unchanged", "crop", "3x3", "phases"
TARGETS = ("cpu", "tensorrt")

# Exact and less work everywhere, in this order.
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
# Exact; whether they pay depends on the machine: alternatives under the name that switches them off.
TIMED_REWRITES: Mapping[str, Mapping[str, GraphPass]] = {
    "fuse-film-linears": {"fuse-film-linears": fuse_linears.fuse_film_linears},
    "fuse-parallel-linears": {"fuse-parallel-linears": fuse_linears.fuse_parallel_linears},
    CONV_TRANSPOSE: {
        f"{CONV_TRANSPOSE}-{CROP}": conv_transpose.replace_conv_transpose_by_crop,
        f"{CONV_TRANSPOSE}-{CONV3X3}": conv_transpose.replace_conv_transpose_by_3x3,
        f"{CONV_TRANSPOSE}-{PHASES}": conv_transpose.replace_conv_transpose_by_phases,
    },
}
# TensorRT has fast transposed convolutions in float; INT8 graphs get `crop` whatever is chosen here.
PRESET_CHOICES: Mapping[str, Mapping[str, str]] = {
    "tensorrt": {
        "fuse-film-linears": "fuse-film-linears",
        "fuse-parallel-linears": UNCHANGED,
        CONV_TRANSPOSE: UNCHANGED,
    }
}
REWRITE_NAMES = (SPECIALIZE_LATENT, *REWRITES, *TIMED_REWRITES)


@dataclass(frozen=True, kw_only=True)
class RewrittenGraphs:
    """`graph` for float precisions; `without_conv_transpose` has no transposed convolution, for int8."""

    graph: bytes
    without_conv_transpose: bytes
    results: tuple[RewriteResult, ...]


@dataclass(frozen=True, kw_only=True)
class RewriteContext:
    """What rewrites are compared on: a stage with real inputs, the backend to time, what it is for."""

    stage: StageSpec
    batch: ReferenceBatch
    backend: str
    target: str


@dataclass(frozen=True, kw_only=True)
class _Change:
    rewrite: str
    before: bytes
    after: bytes


def check_rewrites(names: Sequence[str], target: str) -> None:
    """UsageError unless every name is that of a rewrite and `target` one of TARGETS."""
    if target not in TARGETS:
        raise UsageError(f"unknown target {target!r}", f"there are: {', '.join(TARGETS)}")
    for name in names:
        if name not in REWRITE_NAMES:
            raise UsageError(f"unknown rewrite {name!r}", f"there are: {', '.join(REWRITE_NAMES)}")


def rewrite_graph(graph: bytes, context: RewriteContext, *, without: Sequence[str] = ()) -> RewrittenGraphs:
    """The stage's serialized graph after every rewrite that pays, but for those named in `without`."""
    changes, reader = [], _ParsedGraph()
    for name, change in REWRITES.items():
        after = graph if name in without else reader.apply_pass(graph, change)
        if after is not graph:
            changes.append(_Change(rewrite=name, before=graph, after=after))
            graph = after
    sessions = _Sessions(context)
    results = _measured(changes, context, sessions)
    without_conv_transpose = graph
    for name, variants in TIMED_REWRITES.items():
        if name == CONV_TRANSPOSE:  # the last of them
            without_conv_transpose = reader.apply_pass(graph, conv_transpose.replace_conv_transpose_by_crop)
        if name not in without:
            sessions.forget_all_but(graph)
            made = {variant: reader.apply_pass(graph, change) for variant, change in variants.items()}
            graph, found = _chosen(graph, name, made, context, sessions)
            results += found
    named = _named(graph)
    return RewrittenGraphs(
        graph=named,
        without_conv_transpose=named if without_conv_transpose is graph else _named(without_conv_transpose),
        results=tuple(results),
    )


class _Sessions:
    """Those of a stage's graphs, opened when first asked for: a large one takes OpenVINO seconds."""

    def __init__(self, context: RewriteContext) -> None:
        self._context = context
        self._opened: dict[int, tuple[bytes, Session]] = {}

    def of(self, graphs: Sequence[bytes]) -> list[Session]:
        """The sessions of these very objects; they are kept, so no others can get their identities."""
        missing = [graph for graph in graphs if id(graph) not in self._opened]
        opened = open_stage_sessions(missing, self._context.stage, self._context.backend, threads=1)
        for graph, session in zip(missing, opened, strict=True):
            self._opened[id(graph)] = graph, session
        return [self._opened[id(graph)][1] for graph in graphs]

    def forget_all_but(self, graph: bytes) -> None:
        """Gives the memory of the others back."""
        self._opened = {key: one for key, one in self._opened.items() if one[0] is graph}


def apply_pass(graph: bytes, change: GraphPass) -> bytes:
    """The serialized graph after `change`, tidied; the very same object when nothing matched."""
    return _ParsedGraph().apply_pass(graph, change)


class _ParsedGraph:
    """Reads a graph once for all changes that find nothing in it, or that come one after the other."""

    def __init__(self) -> None:
        self._graph: bytes | None = None  # what the model says
        self._model: ir.Model | None = None

    def apply_pass(self, graph: bytes, change: GraphPass) -> bytes:
        """See `changed`."""
        if self._model is None or self._graph is not graph:
            self._model, self._graph = _read(graph), graph
        before = _summary(self._model)
        change(self._model)
        cleanup.tidy(self._model)
        if _summary(self._model) != before:
            self._graph = ir.to_proto(self._model).SerializeToString()
        return self._graph


def _read(graph: bytes) -> ir.Model:
    return ir.from_proto(onnx.load_from_string(graph))


def _summary(model: ir.Model) -> list[tuple[str, int]]:
    return [(node.op_type, len(node.inputs)) for node in model.graph] + [("", len(model.graph.initializers))]


def _chosen(
    graph: bytes, name: str, made: Mapping[str, bytes], context: RewriteContext, sessions: _Sessions
) -> tuple[bytes, list[RewriteResult]]:
    """`graph` or the best of its variants, `made`, on the target, and what each would have bought."""
    if all(one is graph for one in made.values()):
        return graph, []
    changes = [_Change(rewrite=variant, before=graph, after=one) for variant, one in made.items()]
    results = _measured(changes, context, sessions, seconds=CHOOSING_SECONDS)
    if context.target == "cpu":
        best, reason = _fastest(results), f"not the fastest by {1 - MAX_TIME_RATIO:.0%}"
    else:
        best, reason = PRESET_CHOICES[context.target][name], f"known not to pay on {context.target}"
    decided = [
        replace(one, applied=one.rewrite == best, reason="" if one.rewrite == best else reason)
        for one in results
    ]
    return made.get(best, graph), decided


def _fastest(results: Sequence[RewriteResult]) -> str:
    """The variant that takes the least time, or UNCHANGED when none is worthwhile."""
    share = {
        one.rewrite: one.milliseconds_after / one.milliseconds_before
        for one in results
        if one.milliseconds_before and one.milliseconds_after
    }
    best = min(share, key=lambda name: share[name], default=UNCHANGED)
    return best if share.get(best, 1.0) < MAX_TIME_RATIO else UNCHANGED


def _measured(
    changes: Sequence[_Change], context: RewriteContext, opened: _Sessions, *, seconds: float = 0.0
) -> list[RewriteResult]:
    """What each change does to outputs, nodes and time."""
    graphs = list({id(g): g for change in changes for g in (change.before, change.after)}.values())
    if not graphs:
        return []
    stage, batch = context.stage, context.batch
    sessions = opened.of(graphs)
    times = min_cpu_ms(sessions, stage, batch, seconds=seconds)
    inputs = {tensor.name: batch.tensors[tensor.name] for tensor in stage.inputs}
    outputs = [session.run(inputs) for session in sessions]
    place = {id(graph): index for index, graph in enumerate(graphs)}
    return [
        _result(
            change,
            context,
            [(times[i], outputs[i]) for i in (place[id(change.before)], place[id(change.after)])],
        )
        for change in changes
    ]


def _result(
    change: _Change, context: RewriteContext, found: Sequence[tuple[float, Mapping[str, Array]]]
) -> RewriteResult:
    (before, old), (after, new) = found
    codes = [spec.name for spec in context.stage.outputs if is_codes(spec)]
    return RewriteResult(
        rewrite=change.rewrite,
        stage=context.stage.name,
        applied=True,
        reason="",
        nodes_before=node_count(change.before),
        nodes_after=node_count(change.after),
        milliseconds_before=before,
        milliseconds_after=after,
        max_abs=max((_distance(old[name], new[name]) for name in old if name not in codes), default=0.0),
        codes_changed=sum(int((old[name] != new[name]).sum()) for name in codes),
    )


def _distance(a: Array, b: Array) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))


def _named(graph: bytes) -> bytes:
    model = _read(graph)
    naming.assign_names(model)
    named = onnx.shape_inference.infer_shapes(ir.to_proto(model), strict_mode=True)
    data: bytes = named.SerializeToString()
    return data
