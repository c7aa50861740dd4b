"""A stage exported and rewritten in a process of its own, beside which the build goes on.

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
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from textual_vision.export.host.gc_tuning import refreeze_gc
from textual_vision.export.host.step_cache import zip_bytes
from textual_vision.export.inference_network.network import SPECIALIZE_LATENT
from textual_vision.export.model.batch import ReferenceBatch, bytes_from_batches
from textual_vision.export.model.stage import Stage, StagedModel, inference_stage
from textual_vision.export.passes.manager import RewriteContext, rewrite_graph
from textual_vision.export.results import bytes_from_results
from textual_vision.runtime import errors
from textual_vision.runtime.backends.session import default_backend

CHILD = "textual_vision.export.build.worker"
# Of what is rewritten: the graph for float precisions, for int8, and what rewrites bought.
GRAPH_FILE, LOWERED_FILE, NOTES_FILE = "graph.onnx", "lowered.onnx", "notes.json"
# In the folder between the processes.
EXAMPLE_FILE, EXPORTED_FILE, REWRITTEN_FILE = "example", "exported.onnx", "rewritten"
ERROR_FILE, LOG_FILE = "error.json", "log"
# A process takes 4 s to start and to import PyTorch, a block a third of a second to be traced.
MIN_BLOCKS_FOR_WORKER = 16
LOOK_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class StageExportSpec:
    """A model's stages are to be exported and rewritten so: `source` and `tokens` as `model_of` has them,
    `without` the rewrites of these names, `target` what the graphs are for.
    """

    source: str
    opset: int
    tokens: int | None
    target: str
    without: tuple[str, ...] = ()

    @property
    def uses_inference_modules(self) -> bool:
        """Whether stages are arranged for drawing before they are exported."""
        return SPECIALIZE_LATENT not in self.without


def exported_stage(model: StagedModel, spec: StageExportSpec, name: str, example: ReferenceBatch) -> bytes:
    """The serialized graph of the stage called `name`; raises what `onnx_from_stage` raises."""
    # PyTorch's compiler takes 2 s to import: a process begun before has that much more time.
    from textual_vision.export.tracing.exporter import ExportOptions, onnx_from_stage

    options = ExportOptions(opset=spec.opset, tokens=spec.tokens, max_tokens=model.text.max_tokens)
    stage = inference_stage(model.stage(name)) if spec.uses_inference_modules else model.stage(name)
    data: bytes = onnx_from_stage(stage, example.tensors, options).SerializeToString()
    refreeze_gc()
    return data


def rewritten_stage(
    model: StagedModel, spec: StageExportSpec, name: str, graph: bytes, example: ReferenceBatch
) -> bytes:
    """GRAPH_FILE, LOWERED_FILE and NOTES_FILE of the stage whose exported graph this is, in one zip file."""
    context = RewriteContext(
        stage=model.stage(name).spec, batch=example, backend=default_backend(), target=spec.target
    )
    made = rewrite_graph(graph, context, without=spec.without)
    notes = bytes_from_results(made.results)
    return zip_bytes({GRAPH_FILE: made.graph, LOWERED_FILE: made.without_conv_transpose, NOTES_FILE: notes})


def needs_worker(stage: Stage) -> bool:
    """Whether its program is long, and there is a core for it."""
    return stage.blocks >= MIN_BLOCKS_FOR_WORKER and (os.cpu_count() or 1) > 1


class StageExportJob:
    """What a process is making of a stage; to ask for it waits, and raises what went wrong."""

    def __init__(self, stage: str, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._stage, self._process, self._folder = stage, process, folder

    def exported(self) -> bytes:
        """See `exported_stage`."""
        return self._file(EXPORTED_FILE)

    def rewritten(self) -> bytes:
        """See `rewritten_stage`."""
        return self._file(REWRITTEN_FILE)

    def _file(self, name: str) -> bytes:
        while not (self._folder / name).exists() and self._process.poll() is None:
            time.sleep(LOOK_SECONDS)
        if (self._folder / name).exists():
            return (self._folder / name).read_bytes()
        if (self._folder / ERROR_FILE).exists():
            error = json.loads((self._folder / ERROR_FILE).read_bytes())
            raise getattr(errors, error["kind"])(error["message"], error["hint"])
        lines = (self._folder / LOG_FILE).read_text("utf-8", "replace").strip().splitlines()
        last = lines[-1] if lines else f"exit code {self._process.returncode}"
        raise errors.TextualVisionError(f"the process that exported {self._stage} failed: {last}")


@contextlib.contextmanager
def started(spec: StageExportSpec, stage: str, example: ReferenceBatch) -> Iterator[StageExportJob]:
    """Begins with the stage. The process is gone when the context is left, however that comes about."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / EXAMPLE_FILE).write_bytes(bytes_from_batches([example]))
        command = [sys.executable, "-m", CHILD, json.dumps(dataclasses.asdict(spec)), stage, place]
        with (folder / LOG_FILE).open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield StageExportJob(stage, process, folder)
        finally:
            process.kill()
            process.wait()
