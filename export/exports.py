"""The exports of a model's stages: what is kept of them, and which are done beside the rest of a build."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from textual_vision.export.samples import Batch
from textual_vision.export.stages import StagedModel
from textual_vision.export.steps import Steps
from textual_vision.export.to_onnx_beside import ExportTask, exported_stage, is_worthwhile, started


@contextlib.contextmanager
def exports_begun(
    model: StagedModel, task: ExportTask, steps: Steps, example: Batch
) -> Iterator[Callable[[], dict[str, bytes]]]:
    """Begins to export stages that take long; what is given does the others and waits for these.

    By stage, it gives the serialised graphs. The time of a stage that was begun is what it was waited for.
    """
    with contextlib.ExitStack() as stack:
        begun = {}
        for stage in model.stages:
            if is_worthwhile(stage) and not steps.has(*_step(model, task, stage.name)):
                begun[stage.name] = stack.enter_context(started(task, stage.name, example))

        def exported() -> dict[str, bytes]:
            graphs = {}
            for stage in sorted(model.stages, key=lambda one: one.name in begun):
                here = partial(exported_stage, model, task, stage.name, example)
                work = begun.get(stage.name, here)
                graphs[stage.name] = steps.run(*_step(model, task, stage.name), work)
            return {stage.name: graphs[stage.name] for stage in model.stages}

        yield exported


def _step(model: StagedModel, task: ExportTask, stage: str) -> tuple[str, object]:
    """The step's name and what it depends on."""
    return f"export {stage}", [model.digest, stage, task.opset, task.tokens, task.arranged]
