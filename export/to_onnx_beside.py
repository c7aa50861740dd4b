"""A stage exported in a process of its own, beside which the build goes on.

To trace a program keeps one core busy, for seconds where it is long, and nothing else of Python can be done
in its process meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from textual_vision.export.samples import Batch, bytes_from_batches
from textual_vision.export.stages import Stage, StagedModel, arranged_stage
from textual_vision.export.to_onnx import ExportOptions, onnx_from_stage
from textual_vision.runtime import errors

CHILD = "textual_vision.export.to_onnx_child"
EXAMPLE_FILE, GRAPH_FILE, ERROR_FILE, LOG_FILE = "example", "graph.onnx", "error.json", "log"
# A process takes 4 s to start and to import PyTorch, a block a third of a second to be traced.
FEWEST_BLOCKS = 16


@dataclass(frozen=True, kw_only=True)
class ExportTask:
    """A model's stages are to be exported so: `source` and `tokens` as `model_of` has them, and whether they
    are `arranged` for drawing."""

    source: str
    opset: int
    tokens: int | None
    arranged: bool


def exported_stage(model: StagedModel, task: ExportTask, name: str, example: Batch) -> bytes:
    """The serialised graph of the stage called `name`; raises what `onnx_from_stage` raises."""
    options = ExportOptions(opset=task.opset, tokens=task.tokens, max_tokens=model.text.max_tokens)
    stage = arranged_stage(model.stage(name)) if task.arranged else model.stage(name)
    data: bytes = onnx_from_stage(stage, example.tensors, options).SerializeToString()
    return data


def is_worthwhile(stage: Stage) -> bool:
    """Whether its program is long, and there is a core for it."""
    return stage.blocks >= FEWEST_BLOCKS and (os.cpu_count() or 1) > 1


@contextlib.contextmanager
def started(task: ExportTask, stage: str, example: Batch) -> Iterator[Callable[[], bytes]]:
    """Begins to export the stage; what is given waits for the serialised graph and raises what went wrong.

    The process is gone when the context is left, however that comes about.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / EXAMPLE_FILE).write_bytes(bytes_from_batches([example]))
        command = [sys.executable, "-m", CHILD, json.dumps(dataclasses.asdict(task)), stage, place]
        with (folder / LOG_FILE).open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield lambda: _graph(stage, process, folder)
        finally:
            process.kill()
            process.wait()


def _graph(stage: str, process: subprocess.Popen[bytes], folder: Path) -> bytes:
    code = process.wait()
    if (folder / ERROR_FILE).exists():
        error = json.loads((folder / ERROR_FILE).read_bytes())
        raise getattr(errors, error["kind"])(error["message"], error["hint"])
    if code != 0:
        lines = (folder / LOG_FILE).read_text("utf-8", "replace").strip().splitlines()
        last = lines[-1] if lines else f"exit code {code}"
        raise errors.TextualVisionError(f"the process that exported {stage} failed: {last}")
    return (folder / GRAPH_FILE).read_bytes()
