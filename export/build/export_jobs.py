"""Export and rewrite all stages of a model; long ones in worker processes, the others here meanwhile.

Tracing keeps one core busy, for seconds where a program is long, and holds Python's global interpreter lock.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from textual_vision.export.build.stage_export import (
    ExportedStage,
    StageExportSpec,
    export_stage,
    exported_stage_from_bytes,
    rewrite_stage,
)
from textual_vision.export.host.step_cache import StepCache
from textual_vision.export.host.worker_process import WorkerProcess
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.stage import Stage, StagedModel
from textual_vision.export.sessions.opening import usable_backends

WORKER_MODULE = "textual_vision.export.build.export_worker"
# A worker takes 4 s to start and to import PyTorch; tracing takes a third of a second a block.
MIN_BLOCKS_FOR_WORKER = 16


class StageExportJob:
    """The export of one stage in a worker process. Asking for a result waits for it."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self._results: list[bytes] = []

    def exported(self) -> bytes:
        """Return what `export_stage` returned in the worker, or raise what it raised."""
        return self._result(0)

    def rewritten(self) -> bytes:
        """Return what `rewrite_stage` returned in the worker, or raise what it raised."""
        return self._result(1)

    def _result(self, index: int) -> bytes:
        while len(self._results) <= index:
            self._results.append(self._worker.receive())
        return self._results[index]


class StageExportJobs:
    """The exports of all stages of a model, some of them in worker processes."""

    def __init__(
        self,
        model: StagedModel,
        spec: StageExportSpec,
        steps: StepCache,
        example: Callable[[], ReferenceBatch],
        jobs: Mapping[str, StageExportJob],
    ) -> None:
        self._model, self._spec, self._steps, self._example, self._jobs = model, spec, steps, example, jobs

    def stages(self) -> Iterator[tuple[str, ExportedStage, bool]]:
        """Yield each stage's name, its graphs, and whether a worker still exports others.

        Stages that a worker exports come last; their step takes as long as this process waits for them.
        """
        names = [stage.name for stage in self._model.stages]
        for name in sorted(names, key=self._jobs.__contains__):
            yield name, self._stage(name), name not in self._jobs and bool(self._jobs)

    def _stage(self, name: str) -> ExportedStage:
        model, spec, job = self._model, self._spec, self._jobs.get(name)
        export = job.exported if job else partial(_export, model, spec, name, self._example)
        exported = self._steps.run(*_export_step(model, spec, name), export)
        rewrite = job.rewritten if job else partial(_rewrite, model, spec, name, exported, self._example)
        depends = [exported, spec.no_rewrite, spec.target, usable_backends()]
        return exported_stage_from_bytes(exported, self._steps.run(f"rewrite {name}", depends, rewrite))


@contextlib.contextmanager
def start_stage_exports(
    model: StagedModel, spec: StageExportSpec, steps: StepCache, example: Callable[[], ReferenceBatch]
) -> Iterator[StageExportJobs]:
    """Yield the exports; workers start with the long stages whose export is not cached.

    `example` returns inputs to trace with; it is called once, and only when a stage is not cached.
    """
    example = functools.cache(example)
    with contextlib.ExitStack() as stack:
        jobs = {}
        for stage in model.stages:
            if needs_worker(stage) and not steps.has(*_export_step(model, spec, stage.name)):
                jobs[stage.name] = stack.enter_context(spawn_worker(spec, stage.name, example()))
        yield StageExportJobs(model, spec, steps, example, jobs)


def needs_worker(stage: Stage) -> bool:
    """Whether the stage's program is long enough for a worker process, and a core is free for it."""
    return stage.blocks >= MIN_BLOCKS_FOR_WORKER and (os.cpu_count() or 1) > 1


@contextlib.contextmanager
def spawn_worker(spec: StageExportSpec, stage: str, example: ReferenceBatch) -> Iterator[StageExportJob]:
    """Yield the job of a worker process that exports the stage; leaving the context ends the process."""
    with WorkerProcess(WORKER_MODULE, (spec, stage, example), name=f"stage {stage}") as worker:
        yield StageExportJob(worker)


def _export_step(model: StagedModel, spec: StageExportSpec, stage: str) -> tuple[str, object]:
    """Return the step's name and what its result depends on."""
    return f"export {stage}", [model.fingerprint, stage, spec.opset, spec.tokens, spec.uses_inference_modules]


def _export(
    model: StagedModel, spec: StageExportSpec, name: str, example: Callable[[], ReferenceBatch]
) -> bytes:
    return export_stage(model, spec, name, example())


def _rewrite(
    model: StagedModel,
    spec: StageExportSpec,
    name: str,
    exported: bytes,
    example: Callable[[], ReferenceBatch],
) -> bytes:
    return rewrite_stage(model, spec, name, exported, example())
