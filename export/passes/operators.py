"""Whether a bundle may hold the operators of a graph: all that compute, but no control flow."""

from __future__ import annotations

import onnx_ir as ir

from textual_vision.export.model.user_code import place_in_trace
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.graph.operators import ALLOWED

STACK_TRACE = "pkg.torch.onnx.stack_trace"  # of a node's metadata, by torch's exporter
HINT = "compute without it: torch.where instead of a branch, known sizes; see docs/how-to/custom-model.md"


def check_operators(stage: str, model: ir.Model) -> None:
    """UsageError, with the user's line, where the graph has an operator that a bundle may not hold."""
    for node in model.graph:
        if node.domain or node.op_type not in ALLOWED:
            where = place_in_trace(node.metadata_props.get(STACK_TRACE, ""))
            problem = f"stage {stage!r} cannot be exported: a bundle may not hold {node.op_type}{where}"
            raise UsageError(problem, HINT)
