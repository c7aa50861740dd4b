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
from textual_vision.export.inference_network.network import ARRANGE
from textual_vision.export.model.batch import Array, Batch
from textual_vision.export.passes import conv_transpose as rewrites_upsample
from textual_vision.export.passes import folding as rewrites_fold
from textual_vision.export.passes import fuse_linears as rewrites_merge
from textual_vision.export.passes import shapes as rewrites_shape
from textual_vision.export.results import RewriteResult
from textual_vision.export.sessions.opening import sessions_of
from textual_vision.export.sessions.timing import best_milliseconds, node_count
from textual_vision.runtime.backends.session import Session
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import StageSpec

Change = Callable[[ir.Model], None]

WORTHWHILE = 0.98  # of the time without it: less is within the noise of measuring
# Of each variant: a graph of 1 ms in a few turns may never be undisturbed.
CHOOSING_SECONDS = 0.1
UPSAMPLE = "upsample"
KEEP, CROP, WIDE, APART = "keep", "crop", "wide", "apart"
TARGETS = ("cpu", "tensorrt")

# Exact and less work everywhere, in this order.
REWRITES: Mapping[str, Change] = {
    "fold-constants": rewrites_fold.fold_constants,
    "fold-batch-norm": rewrites_fold.fold_batch_norm,
    "simplify": rewrites_fold.simplify,
    "turn-keys": rewrites_shape.turn_keys,
    "fix-shapes": rewrites_shape.fix_shapes,
    "look-up-groups": rewrites_shape.look_up_groups,
    "fold-scales": rewrites_fold.fold_scales,
    "fold-distance": rewrites_fold.fold_distance,
    "fold-film": rewrites_fold.fold_film,
}
# Exact; whether they pay depends on the machine: alternatives under the name that switches them off.
CHOICES: Mapping[str, Mapping[str, Change]] = {
    "merge-conditions": {"merge-conditions": rewrites_merge.merge_conditions},
    "merge-linears": {"merge-linears": rewrites_merge.merge_linears},
    UPSAMPLE: {
        f"{UPSAMPLE}-{CROP}": rewrites_upsample.upsample_by_crop,
        f"{UPSAMPLE}-{WIDE}": rewrites_upsample.upsample_wide,
        f"{UPSAMPLE}-{APART}": rewrites_upsample.upsample_apart,
    },
}
# TensorRT has fast transposed convolutions in float; INT8 graphs get `crop` whatever is chosen here.
KNOWN: Mapping[str, Mapping[str, str]] = {
    "tensorrt": {"merge-conditions": "merge-conditions", "merge-linears": KEEP, UPSAMPLE: KEEP}
}
REWRITE_NAMES = (ARRANGE, *REWRITES, *CHOICES)


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """`graph` for float precisions; `lowered` has no transposed convolution, for int8."""

    graph: bytes
    lowered: bytes
    results: tuple[RewriteResult, ...]


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What rewrites are compared on: a stage with real inputs, the backend to time, what it is for."""

    stage: StageSpec
    batch: Batch
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


def rewritten(graph: bytes, ground: Ground, *, without: Sequence[str] = ()) -> Rewritten:
    """The stage's serialized graph after every rewrite that pays, but for those named in `without`."""
    changes, reader = [], _Reader()
    for name, change in REWRITES.items():
        after = graph if name in without else reader.changed(graph, change)
        if after is not graph:
            changes.append(_Change(rewrite=name, before=graph, after=after))
            graph = after
    sessions = _Sessions(ground)
    results = _measured(changes, ground, sessions)
    lowered = graph
    for name, variants in CHOICES.items():
        if name == UPSAMPLE:  # the last of them
            lowered = reader.changed(graph, rewrites_upsample.upsample_by_crop)
        if name not in without:
            sessions.forget_all_but(graph)
            made = {variant: reader.changed(graph, change) for variant, change in variants.items()}
            graph, found = _chosen(graph, name, made, ground, sessions)
            results += found
    named = _named(graph)
    return Rewritten(
        graph=named, lowered=named if lowered is graph else _named(lowered), results=tuple(results)
    )


class _Sessions:
    """Those of a stage's graphs, opened when first asked for: a large one takes OpenVINO seconds."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._opened: dict[int, tuple[bytes, Session]] = {}

    def of(self, graphs: Sequence[bytes]) -> list[Session]:
        """The sessions of these very objects; they are kept, so no others can get their identities."""
        missing = [graph for graph in graphs if id(graph) not in self._opened]
        opened = sessions_of(missing, self._ground.stage, self._ground.backend, threads=1)
        for graph, session in zip(missing, opened, strict=True):
            self._opened[id(graph)] = graph, session
        return [self._opened[id(graph)][1] for graph in graphs]

    def forget_all_but(self, graph: bytes) -> None:
        """Gives the memory of the others back."""
        self._opened = {key: one for key, one in self._opened.items() if one[0] is graph}


def changed(graph: bytes, change: Change) -> bytes:
    """The serialized graph after `change`, tidied; the very same object when nothing matched."""
    return _Reader().changed(graph, change)


class _Reader:
    """Reads a graph once for all changes that find nothing in it, or that come one after the other."""

    def __init__(self) -> None:
        self._graph: bytes | None = None  # what the model says
        self._model: ir.Model | None = None

    def changed(self, graph: bytes, change: Change) -> bytes:
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
    graph: bytes, name: str, made: Mapping[str, bytes], ground: Ground, sessions: _Sessions
) -> tuple[bytes, list[RewriteResult]]:
    """`graph` or the best of its variants, `made`, on the target, and what each would have bought."""
    if all(one is graph for one in made.values()):
        return graph, []
    changes = [_Change(rewrite=variant, before=graph, after=one) for variant, one in made.items()]
    results = _measured(changes, ground, sessions, seconds=CHOOSING_SECONDS)
    if ground.target == "cpu":
        best, reason = _fastest(results), f"not the fastest by {1 - WORTHWHILE:.0%}"
    else:
        best, reason = KNOWN[ground.target][name], f"known not to pay on {ground.target}"
    decided = [
        replace(one, applied=one.rewrite == best, reason="" if one.rewrite == best else reason)
        for one in results
    ]
    return made.get(best, graph), decided


def _fastest(results: Sequence[RewriteResult]) -> str:
    """The variant that takes the least time, or KEEP when none is worthwhile."""
    share = {
        one.rewrite: one.milliseconds_after / one.milliseconds_before
        for one in results
        if one.milliseconds_before and one.milliseconds_after
    }
    best = min(share, key=lambda name: share[name], default=KEEP)
    return best if share.get(best, 1.0) < WORTHWHILE else KEEP


def _measured(
    changes: Sequence[_Change], ground: Ground, opened: _Sessions, *, seconds: float = 0.0
) -> list[RewriteResult]:
    """What each change does to outputs, nodes and time."""
    graphs = list({id(g): g for change in changes for g in (change.before, change.after)}.values())
    if not graphs:
        return []
    stage, batch = ground.stage, ground.batch
    sessions = opened.of(graphs)
    times = best_milliseconds(sessions, stage, batch, seconds=seconds)
    inputs = {tensor.name: batch.tensors[tensor.name] for tensor in stage.inputs}
    outputs = [session.run(inputs) for session in sessions]
    place = {id(graph): index for index, graph in enumerate(graphs)}
    return [
        _result(
            change,
            ground,
            [(times[i], outputs[i]) for i in (place[id(change.before)], place[id(change.after)])],
        )
        for change in changes
    ]


def _result(
    change: _Change, ground: Ground, found: Sequence[tuple[float, Mapping[str, Array]]]
) -> RewriteResult:
    (before, old), (after, new) = found
    codes = [spec.name for spec in ground.stage.outputs if spec.dtype == "int64"]
    return RewriteResult(
        rewrite=change.rewrite,
        stage=ground.stage.name,
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
    naming.name_all(model)
    named = onnx.shape_inference.infer_shapes(ir.to_proto(model), strict_mode=True)
    data: bytes = named.SerializeToString()
    return data
