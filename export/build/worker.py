"""The process that floats_beside starts: exports and rewrites one stage.

Run as `python -m`; its arguments are a StageExportSpec as JSON, the stage and the folder of what it reads and
writes.
"""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path

from textual_vision.export.build.float_workers import (
    ERROR_FILE,
    EXAMPLE_FILE,
    EXPORTED_FILE,
    REWRITTEN_FILE,
    StageExportSpec,
    exported_stage,
    rewritten_stage,
)
from textual_vision.export.host.gc_tuning import gc_frozen
from textual_vision.export.host.worker_process import exit_with_parent
from textual_vision.export.model.batch import batches_from_bytes
from textual_vision.export.model.loading import model_of
from textual_vision.runtime.errors import TextualVisionError
from textual_vision.runtime.files import write_atomic


@gc_frozen()
def main() -> None:
    """Leaves both graphs in the folder, whole, or the error that a user can do something about."""
    given = json.loads(sys.argv[1])
    spec = StageExportSpec(**{**given, "without": tuple(given["without"])})
    stage, folder = sys.argv[2], Path(sys.argv[3])
    exit_with_parent(partial(shutil.rmtree, folder, ignore_errors=True))
    (example,) = batches_from_bytes((folder / EXAMPLE_FILE).read_bytes())
    try:
        model = model_of(spec.source, spec.tokens)
        graph = exported_stage(model, spec, stage, example)
        write_atomic(folder / EXPORTED_FILE, graph)
        write_atomic(folder / REWRITTEN_FILE, rewritten_stage(model, spec, stage, graph, example))
    except TextualVisionError as error:
        told = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
        write_atomic(folder / ERROR_FILE, json.dumps(told).encode())


if __name__ == "__main__":
    main()
