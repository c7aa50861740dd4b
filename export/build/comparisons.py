"""Compare each precision with PyTorch on every installed backend, in parallel with the rest of the build."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from textual_vision.export.graph.pipeline_graph import merged_spec
from textual_vision.export.host.step_cache import StepCache
from textual_vision.export.model.batch import Array, ReferenceBatch, bytes_from_batches
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.parity.agreement import (
    PYTORCH,
    AgreementMatrix,
    PictureSet,
    agreement_matrix,
    device_name,
    json_from_matrix,
    matrix_from_bytes,
)
from textual_vision.export.parity.onnx_reference import (
    REFERENCE_BACKEND,
    REFERENCE_PRECISIONS,
    first_samples,
    reference_sessions,
)
from textual_vision.export.parity.tolerance import MERGED_TOLERANCE, TOLERANCES
from textual_vision.export.parity.verdict import free_parity, parity_of, run_pipeline, verdict_of
from textual_vision.export.precision.registry import PrecisionGraphs
from textual_vision.export.results import (
    MERGED,
    PrecisionResult,
    StageGraph,
    bytes_from_results,
    parity_from_bytes,
)
from textual_vision.export.sessions.cached import CachingSession, GraphDigests, SessionPool
from textual_vision.export.sessions.opening import initialize_backend, usable_backends
from textual_vision.export.sessions.timing import median_latency_ms, node_count
from textual_vision.runtime.generation.program import Program

AGREEMENT_BATCHES = 2  # of the reference, in the matrix of all precisions and backends

Parity = Callable[[], bytes]


class Comparisons:
    """The comparisons of one build.

    The first backend compares in `results`, with sessions that use their default number of threads: the build
    times these, and the report uses them too. Every other backend compares one precision after the other in a
    thread of its own, with sessions of one thread.
    """

    def __init__(
        self,
        model: StagedModel,
        batches: Sequence[ReferenceBatch],
        steps: StepCache,
        pools: Mapping[str, ThreadPoolExecutor | None],
    ) -> None:
        self._model, self._batches, self._steps, self._pools = model, batches, steps, pools
        self._specs, self._program = [stage.spec for stage in model.stages], model.program
        digests = GraphDigests()
        self._opened = {
            backend: SessionPool(digests, threads=None if pool is None else 1)
            for backend, pool in pools.items()
        }
        self._submitted: dict[str, tuple[PrecisionGraphs, list[Parity]]] = {}
        self._deferred: list[Parity] = []

    def submit(self, name: str, made: PrecisionGraphs, *, reference: bool = False) -> None:
        """Start to compare the graphs of precision `name`; with `reference`, on REFERENCE_BACKEND too."""
        expected = bytes_from_batches(self._batches)
        comparisons: list[Parity] = []
        for backend, pool in self._pools.items():
            depends = [name, made.graphs, expected, backend, dataclasses.astuple(TOLERANCES[name])]
            work = partial(self._parity, name, made.graphs, backend)
            run = partial(self._steps.run, f"compare {name} on {backend}", depends, work)
            comparisons.append(self._defer(run) if pool is None else pool.submit(run).result)
        if reference and name in REFERENCE_PRECISIONS:
            comparisons.append(self._defer(partial(self._by_reference, name, made.graphs)))
        self._submitted[name] = made, comparisons

    def results(self) -> tuple[PrecisionResult, ...]:
        """Return the results of all submitted precisions, in that order, with their verdicts.

        Graphs are timed last, when no other thread of the build runs. Raises TextualVisionError when a
        backend cannot compute a graph.
        """
        for run in self._deferred:
            run()  # meanwhile the other backends compare
        parity = {
            name: [one for found in comparisons for one in parity_from_bytes(found())]
            for name, (_, comparisons) in self._submitted.items()
        }
        times = self._milliseconds()
        return tuple(
            PrecisionResult(
                precision=name,
                graphs=self._graphs(name, made.graphs, times),
                parity=tuple(parity[name]),
                verdict=verdict_of(parity[name]),
                notes=made.notes,
            )
            for name, (made, _) in self._submitted.items()
        )

    def sessions(self, graphs: Mapping[str, bytes]) -> dict[str, CachingSession]:
        """Return the first backend's sessions of the graphs by stage; they cache the compared inputs."""
        first = usable_backends()[0]
        return self._opened[first].of(graphs, first)

    def agreement(self, graphs: Mapping[str, Mapping[str, bytes]]) -> AgreementMatrix:
        """Return how the first pictures of every precision and backend agree with PyTorch and each other.

        `graphs` by precision and stage.
        """
        batches = self._batches[:AGREEMENT_BATCHES]
        stages = {name: {spec.name: made[spec.name] for spec in self._specs} for name, made in graphs.items()}
        depends = [stages, bytes_from_batches(batches), list(self._pools)]
        work = partial(self._agreement, stages, batches)
        return matrix_from_bytes(self._steps.run("compare all precisions and backends", depends, work))

    def _agreement(
        self, stages: Mapping[str, Mapping[str, bytes]], batches: Sequence[ReferenceBatch]
    ) -> bytes:
        sets = {PYTORCH: _picture_set([batch.tensors for batch in batches])}
        for precision, graphs in stages.items():
            for backend in self._pools:
                sessions = self._opened[backend].of(graphs, backend)
                found = [run_pipeline(self._program, sessions, batch) for batch in batches]
                sets[f"{precision}/{backend}/{device_name()}"] = _picture_set(found)
        return json.dumps(json_from_matrix(agreement_matrix(sets))).encode()

    def stop(self) -> None:
        """Make every running comparison end with its next session run."""
        for opened in self._opened.values():
            opened.stop()

    def _defer(self, run: Parity) -> Parity:
        """Return `run`, to be called once, in this thread."""
        self._deferred.append(functools.cache(run))
        return self._deferred[-1]

    def _parity(self, name: str, graphs: Mapping[str, bytes], backend: str) -> bytes:
        program, batches = self._program, self._batches
        sessions = self._opened[backend].of(graphs, backend)
        found = parity_of(program, sessions, batches, tolerance=TOLERANCES[name], backend=backend)
        if MERGED in graphs:
            # Compare with the chained stages: merging is judged here, not the precision.
            chained = [
                dataclasses.replace(
                    batch, tensors={**batch.tensors, **run_pipeline(program, sessions, batch)}
                )
                for batch in batches
            ]
            merged = Program(stages=(merged_spec(self._specs),))
            found += free_parity(merged, sessions, chained, tolerance=MERGED_TOLERANCE, backend=backend)
        return bytes_from_results(found)

    def _by_reference(self, name: str, graphs: Mapping[str, bytes]) -> bytes:
        few = first_samples(self._batches)
        stages = {spec.name: graphs[spec.name] for spec in self._specs}
        depends = [name, stages, bytes_from_batches(few), dataclasses.astuple(TOLERANCES[name])]

        def work() -> bytes:
            sessions = reference_sessions(stages)
            return bytes_from_results(
                parity_of(self._program, sessions, few, tolerance=TOLERANCES[name], backend=REFERENCE_BACKEND)
            )

        return self._steps.run(f"compare {name} on {REFERENCE_BACKEND}", depends, work)

    def _milliseconds(self) -> dict[str, dict[str, float]]:
        """Return the graphs' times by stage and precision. Every build measures them anew."""
        opened = {name: self.sessions(made.graphs) for name, (made, _) in self._submitted.items()}
        times = {}
        for spec in [*self._specs, merged_spec(self._specs)]:
            timed = {name: one[spec.name].uncached() for name, one in opened.items() if spec.name in one}
            if timed:  # a model with loops has no merged graph
                found = median_latency_ms(list(timed.values()), spec, self._batches[0])
                times[spec.name] = dict(zip(timed, found, strict=True))
        return times

    def _graphs(
        self, name: str, graphs: Mapping[str, bytes], times: Mapping[str, Mapping[str, float]]
    ) -> tuple[StageGraph, ...]:
        return tuple(
            StageGraph(
                stage=stage,
                file=f"onnx/{name}/{stage}.onnx",
                bytes=len(graphs[stage]),
                nodes=node_count(graphs[stage]),
                milliseconds=milliseconds[name],
                backend=usable_backends()[0],
            )
            for stage, milliseconds in times.items()
            if name in milliseconds
        )


def _picture_set(tensors: Sequence[Mapping[str, Array]]) -> PictureSet:
    codes = [one["codes"] for one in tensors if "codes" in one]
    images = np.concatenate([one["image"] for one in tensors]).astype(np.uint8)
    return PictureSet(images=images, codes=np.concatenate(codes) if codes else None)


@contextlib.contextmanager
def start_comparisons(
    model: StagedModel, batches: Sequence[ReferenceBatch], steps: StepCache
) -> Iterator[Comparisons]:
    """Yield comparisons with the reference `batches`; leaving the context stops those that still run."""
    backends = usable_backends()
    with contextlib.ExitStack() as stack:
        pools: dict[str, ThreadPoolExecutor | None] = dict.fromkeys(backends)
        if (os.cpu_count() or 1) > 1:
            for backend in backends[1:]:
                initialize_backend(backend)
                pool = pools[backend] = ThreadPoolExecutor(1)
                stack.callback(pool.shutdown, cancel_futures=True)
        comparisons = Comparisons(model, batches, steps, pools)
        stack.callback(comparisons.stop)
        yield comparisons
