"""One precision's graphs against PyTorch by every backend at hand, with their sizes and times."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

from textual_vision.export.measure import median_milliseconds, node_count, usable_backends
from textual_vision.export.merge import merged_spec
from textual_vision.export.parity import (
    BUDGETS,
    MERGED_BUDGET,
    free_parity,
    free_running,
    parity_of,
    verdict_of,
)
from textual_vision.export.precision import PrecisionGraphs
from textual_vision.export.reference import (
    REFERENCE_BACKEND,
    REFERENCE_PRECISIONS,
    first_samples,
    reference_sessions,
)
from textual_vision.export.results import PrecisionResult, StageGraph, StageParity
from textual_vision.export.results_json import bytes_from_results, parity_from_bytes
from textual_vision.export.samples import Batch, bytes_from_batches
from textual_vision.export.sessions import OpenedSessions
from textual_vision.export.stages import MERGED, StagedModel
from textual_vision.export.steps import Steps


def compared(
    model: StagedModel,
    name: str,
    made: PrecisionGraphs,
    batches: Sequence[Batch],
    steps: Steps,
    opened: OpenedSessions,
    *,
    reference: bool = False,
) -> PrecisionResult:
    """The comparison of precision `name`, by the REFERENCE_BACKEND too if wanted; verdicts are in the result.
    `opened` are the sessions of the precisions so far.

    Raises TextualVisionError when a backend cannot compute a graph.
    """
    parity: list[StageParity] = []
    expected = bytes_from_batches(batches)
    for backend in usable_backends():
        work = partial(_parity, model, name, made.graphs, batches, backend, opened)
        depends = [name, made.graphs, expected, backend, dataclasses.astuple(BUDGETS[name])]
        parity += parity_from_bytes(steps.run(f"compare {name} by {backend}", depends, work))
    if reference and name in REFERENCE_PRECISIONS:
        few = first_samples(batches)
        stages = {stage.name: made.graphs[stage.name] for stage in model.stages}
        depends = [name, stages, bytes_from_batches(few), dataclasses.astuple(BUDGETS[name])]
        work = partial(_reference_parity, model, name, stages, few)
        parity += parity_from_bytes(steps.run(f"compare {name} by {REFERENCE_BACKEND}", depends, work))
    return PrecisionResult(
        precision=name,
        graphs=_graphs(model, name, made.graphs, batches, opened),
        parity=tuple(parity),
        verdict=verdict_of(parity),
        notes=made.notes,
    )


def _parity(
    model: StagedModel,
    name: str,
    graphs: Mapping[str, bytes],
    batches: Sequence[Batch],
    backend: str,
    opened: OpenedSessions,
) -> bytes:
    specs = [stage.spec for stage in model.stages]
    sessions = opened.of(graphs, backend)
    found = parity_of(specs, sessions, batches, budget=BUDGETS[name], backend=backend)
    if MERGED in graphs:
        # Against the same stages one by one: what merging changed, not what the precision did.
        chained = [
            dataclasses.replace(batch, tensors={**batch.tensors, **free_running(specs, sessions, batch)})
            for batch in batches
        ]
        merged = [merged_spec(specs)]
        found += free_parity(merged, sessions, chained, budget=MERGED_BUDGET, backend=backend)
    return bytes_from_results(found)


def _reference_parity(
    model: StagedModel, name: str, graphs: Mapping[str, bytes], batches: Sequence[Batch]
) -> bytes:
    specs = [stage.spec for stage in model.stages]
    sessions = reference_sessions(graphs)
    return bytes_from_results(
        parity_of(specs, sessions, batches, budget=BUDGETS[name], backend=REFERENCE_BACKEND)
    )


def _graphs(
    model: StagedModel,
    name: str,
    graphs: Mapping[str, bytes],
    batches: Sequence[Batch],
    opened: OpenedSessions,
) -> tuple[StageGraph, ...]:
    """Size and time of each graph; timed anew at every build, since machines are busy at different times."""
    backend = usable_backends()[0]
    specs = [stage.spec for stage in model.stages]
    sessions = opened.of(graphs, backend)
    found = []
    for spec in [*specs, merged_spec(specs)] if MERGED in graphs else specs:
        graph = graphs[spec.name]
        found.append(
            StageGraph(
                stage=spec.name,
                file=f"onnx/{name}/{spec.name}.onnx",
                bytes=len(graph),
                nodes=node_count(graph),
                milliseconds=median_milliseconds(sessions[spec.name].forgetful(), spec, batches[0]),
                backend=backend,
            )
        )
    return tuple(found)
