"""Removal of what a graph does not need: dead nodes, duplicates, identities."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

NO_LIMIT = 1 << 40


def tidy(model: ir.Model) -> None:
    """Constants as initializers, none twice; nothing that no output needs; no node twice."""
    for step in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(size_limit=NO_LIMIT),
        passes.CommonSubexpressionEliminationPass(),
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
    ):
        step(model)
