"""What a rewrite changes: outputs, number of nodes, time. A rewritten graph that does not load is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from textual_vision.export.model.batch import Array, ReferenceBatch, batches_of_stage
from textual_vision.export.results import RewriteResult
from textual_vision.export.sessions.opening import UnloadableGraphError, open_stage_sessions
from textual_vision.export.sessions.timing import min_cpu_ms, node_count
from textual_vision.runtime.backends.session import Session
from textual_vision.runtime.manifest import StageSpec


@dataclass(frozen=True, kw_only=True)
class RewriteContext:
    """A stage with real inputs, the backend that runs it here, and the `target` that the graph is for."""

    stage: StageSpec
    batch: ReferenceBatch
    backend: str
    target: str


@dataclass(frozen=True, kw_only=True)
class GraphChange:
    """One rewrite's serialized graph `before` and `after`."""

    rewrite: str
    before: bytes
    after: bytes


class BrokenRewriteError(Exception):
    """The backend loads the graph before a rewrite and not the one after it."""

    def __init__(self, change: GraphChange, reason: str) -> None:
        super().__init__(reason)
        self.change, self.reason = change, reason


class RewriteSessions:
    """Sessions of one stage's graphs, each opened on first use: a large graph takes OpenVINO seconds."""

    def __init__(self, context: RewriteContext) -> None:
        self._context = context
        # By the graph's identity. The graph is kept too, so that no other object gets the same identity.
        self._opened: dict[int, tuple[bytes, Session]] = {}

    def of(self, graphs: Sequence[bytes]) -> list[Session]:
        """Return a session of each graph; UnloadableGraphError when the backend rejects one."""
        missing = [graph for graph in graphs if id(graph) not in self._opened]
        opened = open_stage_sessions(missing, self._context.stage, self._context.backend, threads=1)
        for graph, session in zip(missing, opened, strict=True):
            self._opened[id(graph)] = graph, session
        return [self._opened[id(graph)][1] for graph in graphs]

    def forget_all_but(self, graph: bytes) -> None:
        """Close the other graphs' sessions."""
        self._opened = {key: one for key, one in self._opened.items() if one[0] is graph}


def measure_changes(
    changes: Sequence[GraphChange], context: RewriteContext, opened: RewriteSessions, *, seconds: float = 0.0
) -> list[RewriteResult]:
    """Return each change's effect on outputs, nodes and time; `seconds` of timing for each graph.

    Raises BrokenRewriteError for the first change whose graph does not load.
    """
    graphs = list({id(g): g for change in changes for g in (change.before, change.after)}.values())
    if not graphs:
        return []
    stage, batch = context.stage, context.batch
    try:
        sessions = opened.of(graphs)
    except UnloadableGraphError:
        _raise_first_broken(changes, opened)
        raise  # the graph before every rewrite does not load
    times = min_cpu_ms(sessions, stage, batch, seconds=seconds)
    batch = batches_of_stage([batch], stage)[0]
    inputs = {tensor.name: batch.tensors[tensor.name] for tensor in stage.inputs}
    outputs = [session.run(inputs) for session in sessions]
    place = {id(graph): index for index, graph in enumerate(graphs)}
    return [
        _result(
            change,
            stage,
            [(times[i], outputs[i]) for i in (place[id(change.before)], place[id(change.after)])],
        )
        for change in changes
    ]


def unmeasured_result(change: GraphChange, stage: StageSpec, reason: str) -> RewriteResult:
    """Return the result of a change that is not applied, and whose graph cannot be run."""
    return RewriteResult(
        rewrite=change.rewrite,
        stage=stage.name,
        applied=False,
        reason=reason,
        nodes_before=node_count(change.before),
        nodes_after=node_count(change.after),
        milliseconds_before=None,
        milliseconds_after=None,
        max_abs=0.0,
        codes_changed=0,
    )


def _raise_first_broken(changes: Sequence[GraphChange], opened: RewriteSessions) -> None:
    for change in changes:
        opened.of([change.before])
        try:
            opened.of([change.after])
        except UnloadableGraphError as error:
            raise BrokenRewriteError(change, error.message) from None


def _result(
    change: GraphChange, stage: StageSpec, found: Sequence[tuple[float, Mapping[str, Array]]]
) -> RewriteResult:
    (before, old), (after, new) = found
    codes = [spec.name for spec in stage.outputs if spec.dtype == "int64"]
    return RewriteResult(
        rewrite=change.rewrite,
        stage=stage.name,
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
