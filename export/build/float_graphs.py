"""The float graphs of a build's stages: exported and rewritten, long ones in a process of their own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from textual_vision.export.build.float_workers import (
    GRAPH_FILE,
    LOWERED_FILE,
    NOTES_FILE,
    StageExportJob,
    StageExportSpec,
    exported_stage,
    needs_worker,
    rewritten_stage,
    started,
)
from textual_vision.export.host.step_cache import StepCache, unzip_bytes
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.results import RewriteResult, rewrites_from_bytes
from textual_vision.export.sessions.opening import usable_backends


@dataclass(frozen=True, kw_only=True)
class ExportedStage:
    """A stage's serialised graphs: as `exported`, and rewritten; see `rewrites.RewrittenGraphs`."""

    exported: bytes
    graph: bytes
    lowered: bytes
    rewrites: tuple[RewriteResult, ...]


class StageExportJobs:
    """The stages' graphs, those that are made beside last."""

    def __init__(
        self,
        model: StagedModel,
        spec: StageExportSpec,
        steps: StepCache,
        example: Callable[[], ReferenceBatch],
        begun: dict[str, StageExportJob],
    ) -> None:
        self._model, self._task, self._steps, self._example, self._begun = model, spec, steps, example, begun

    def stages(self) -> Iterator[tuple[str, ExportedStage, bool]]:
        """Each stage's name and graphs, and whether to make others goes on meanwhile.

        The time of what is made beside is what it was waited for.
        """
        names = [stage.name for stage in self._model.stages]
        for name in sorted(names, key=self._begun.__contains__):
            yield name, self._stage(name), name not in self._begun and bool(self._begun)

    def _stage(self, name: str) -> ExportedStage:
        beside, spec = self._begun.get(name), self._task
        work = (
            partial(exported_stage, self._model, spec, name, self._example())
            if beside is None
            else beside.exported
        )
        exported = self._steps.run(*_export(self._model, spec, name), work)
        work = (
            partial(rewritten_stage, self._model, spec, name, exported, self._example())
            if beside is None
            else beside.rewritten
        )
        depends = [exported, spec.without, spec.target, usable_backends()]
        files = unzip_bytes(self._steps.run(f"rewrite {name}", depends, work))
        return ExportedStage(
            exported=exported,
            graph=files[GRAPH_FILE],
            lowered=files[LOWERED_FILE],
            rewrites=rewrites_from_bytes(files[NOTES_FILE]),
        )


@contextlib.contextmanager
def start_stage_exports(
    model: StagedModel, spec: StageExportSpec, steps: StepCache, example: Callable[[], ReferenceBatch]
) -> Iterator[StageExportJobs]:
    """Begins with the stages that take long, unless they are kept; `example` gives inputs to try them on."""
    example = functools.cache(example)
    with contextlib.ExitStack() as stack:
        begun = {}
        for stage in model.stages:
            if needs_worker(stage) and not steps.has(*_export(model, spec, stage.name)):
                begun[stage.name] = stack.enter_context(started(spec, stage.name, example()))
        yield StageExportJobs(model, spec, steps, example, begun)


def _export(model: StagedModel, spec: StageExportSpec, stage: str) -> tuple[str, object]:
    """The step's name and what it depends on."""
    return f"export {stage}", [model.fingerprint, stage, spec.opset, spec.tokens, spec.uses_inference_modules]
