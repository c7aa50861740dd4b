"""The precisions' graphs against PyTorch by every backend at hand, beside what a build does else."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from textual_vision.export.graph.pipeline_graph import merged_spec
from textual_vision.export.host.step_cache import StepCache
from textual_vision.export.model.batch import ReferenceBatch, bytes_from_batches
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.parity.onnx_reference import (
    REFERENCE_BACKEND,
    REFERENCE_PRECISIONS,
    first_samples,
    reference_sessions,
)
from textual_vision.export.parity.verdict import (
    MERGED_TOLERANCE,
    TOLERANCES,
    free_parity,
    parity_of,
    run_pipeline,
    verdict_of,
)
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

Parity = Callable[[], bytes]


class Comparisons:
    """Of one build. Every backend but the first compares one precision after the other in its own thread, by
    sessions of one thread. The first compares when the results are wanted, by sessions that choose how many
    threads to take: these are timed then, and others ask for them too.
    """

    def __init__(
        self,
        model: StagedModel,
        batches: Sequence[ReferenceBatch],
        steps: StepCache,
        pools: Mapping[str, ThreadPoolExecutor | None],
    ) -> None:
        self._model, self._batches, self._steps, self._pools = model, batches, steps, pools
        self._specs = [stage.spec for stage in model.stages]
        digests = GraphDigests()
        self._opened = {
            backend: SessionPool(digests, threads=None if pool is None else 1)
            for backend, pool in pools.items()
        }
        self._begun: dict[str, tuple[PrecisionGraphs, list[Parity]]] = {}
        self._here: list[Parity] = []

    def submit(self, name: str, made: PrecisionGraphs, *, reference: bool = False) -> None:
        """Begins to compare precision `name`, by the REFERENCE_BACKEND too if wanted."""
        expected = bytes_from_batches(self._batches)
        begun: list[Parity] = []
        for backend, pool in self._pools.items():
            depends = [name, made.graphs, expected, backend, dataclasses.astuple(TOLERANCES[name])]
            work = partial(self._parity, name, made.graphs, backend)
            run = partial(self._steps.run, f"compare {name} by {backend}", depends, work)
            begun.append(self._later(run) if pool is None else pool.submit(run).result)
        if reference and name in REFERENCE_PRECISIONS:
            begun.append(self._later(partial(self._by_reference, name, made.graphs)))
        self._begun[name] = made, begun

    def results(self) -> tuple[PrecisionResult, ...]:
        """Of all that was begun, in that order; verdicts are in the results.

        Graphs are timed when all is compared: nothing of the build's own may go on beside. Raises
        TextualVisionError when a backend cannot compute a graph.
        """
        for run in self._here:
            run()  # while others go on
        parity = {
            name: [one for found in begun for one in parity_from_bytes(found())]
            for name, (_, begun) in self._begun.items()
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
            for name, (made, _) in self._begun.items()
        )

    def sessions(self, graphs: Mapping[str, bytes]) -> dict[str, CachingSession]:
        """A precision's, on the first backend, by stage; what they were compared on they give at once."""
        first = usable_backends()[0]
        return self._opened[first].of(graphs, first)

    def stop(self) -> None:
        """What goes on ends with its next run."""
        for opened in self._opened.values():
            opened.stop()

    def _later(self, run: Parity) -> Parity:
        """To be done in this thread, once."""
        self._here.append(functools.cache(run))
        return self._here[-1]

    def _parity(self, name: str, graphs: Mapping[str, bytes], backend: str) -> bytes:
        specs, batches = self._specs, self._batches
        sessions = self._opened[backend].of(graphs, backend)
        found = parity_of(specs, sessions, batches, tolerance=TOLERANCES[name], backend=backend)
        if MERGED in graphs:
            # Against the same stages one by one: what merging changed, not what the precision did.
            chained = [
                dataclasses.replace(batch, tensors={**batch.tensors, **run_pipeline(specs, sessions, batch)})
                for batch in batches
            ]
            merged = [merged_spec(specs)]
            found += free_parity(merged, sessions, chained, tolerance=MERGED_TOLERANCE, backend=backend)
        return bytes_from_results(found)

    def _by_reference(self, name: str, graphs: Mapping[str, bytes]) -> bytes:
        few = first_samples(self._batches)
        stages = {spec.name: graphs[spec.name] for spec in self._specs}
        depends = [name, stages, bytes_from_batches(few), dataclasses.astuple(TOLERANCES[name])]

        def work() -> bytes:
            sessions = reference_sessions(stages)
            return bytes_from_results(
                parity_of(self._specs, sessions, few, tolerance=TOLERANCES[name], backend=REFERENCE_BACKEND)
            )

        return self._steps.run(f"compare {name} by {REFERENCE_BACKEND}", depends, work)

    def _milliseconds(self) -> dict[str, dict[str, float]]:
        """By stage and precision the graphs' times, anew at every build: machines are busy now and then."""
        opened = {name: self.sessions(made.graphs) for name, (made, _) in self._begun.items()}
        times = {}
        for spec in [*self._specs, merged_spec(self._specs)]:
            timed = {name: one[spec.name].uncached() for name, one in opened.items() if spec.name in one}
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


@contextlib.contextmanager
def start_comparisons(
    model: StagedModel, batches: Sequence[ReferenceBatch], steps: StepCache
) -> Iterator[Comparisons]:
    """Comparisons with the reference's `batches`; what still goes on when the context is left is stopped."""
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
