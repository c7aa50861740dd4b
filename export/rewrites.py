"""Rewrites of a graph."""

from __future__ import annotations

import onnx
import onnxscript.optimizer


def rewritten(graph: bytes) -> bytes:
    model = onnx.load_from_string(graph)
    model = onnxscript.optimizer.optimize(model)
    return model.SerializeToString()
