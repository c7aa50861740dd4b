"""The process that to_onnx_beside starts: exports one stage.

Run as `python -m`; its arguments are an ExportTask as JSON, the stage and the folder of what it reads and
writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from textual_vision.export.samples import batches_from_bytes
from textual_vision.export.stages import model_of
from textual_vision.export.to_onnx_beside import (
    ERROR_FILE,
    EXAMPLE_FILE,
    GRAPH_FILE,
    ExportTask,
    exported_stage,
)
from textual_vision.runtime.errors import TextualVisionError


def main() -> None:
    """Leaves the serialised graph in the folder, or the error that a user can do something about."""
    task, stage, folder = ExportTask(**json.loads(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
    (example,) = batches_from_bytes((folder / EXAMPLE_FILE).read_bytes())
    try:
        graph = exported_stage(model_of(task.source, task.tokens), task, stage, example)
    except TextualVisionError as error:
        told = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
        (folder / ERROR_FILE).write_text(json.dumps(told))
    else:
        (folder / GRAPH_FILE).write_bytes(graph)


if __name__ == "__main__":
    main()
