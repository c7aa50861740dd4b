"""The process that to_onnx_beside starts: exports one stage.

Run as `python -m`; its arguments are an ExportTask as JSON and the folder of what it reads and writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from textual_vision.export.build import BuildOptions, exported_stage, model_of
from textual_vision.export.samples import batches_from_bytes
from textual_vision.export.to_onnx_beside import ERROR_FILE, EXAMPLE_FILE, GRAPH_FILE, ExportTask
from textual_vision.runtime.errors import TextualVisionError


def main() -> None:
    """Leaves the serialised graph in the folder, or the error that a user can do something about."""
    task, folder = ExportTask(**json.loads(sys.argv[1])), Path(sys.argv[2])
    options = BuildOptions(opset=task.opset, tokens=task.tokens, no_rewrite=tuple(task.no_rewrite))
    (example,) = batches_from_bytes((folder / EXAMPLE_FILE).read_bytes())
    try:
        graph = exported_stage(model_of(task.source, options), task.stage, options, example)
    except TextualVisionError as error:
        told = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
        (folder / ERROR_FILE).write_text(json.dumps(told))
    else:
        (folder / GRAPH_FILE).write_bytes(graph)


if __name__ == "__main__":
    main()
