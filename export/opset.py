"""Which opsets the tools on this machine write, and ONNX's own check of what they wrote."""

from __future__ import annotations

import onnx

from textual_vision.runtime.errors import UsageError

OPSET_LOWEST = 17  # LayerNormalization; TensorRT 8.6 reads no newer one
OPSET_NEWEST_OF_TENSORRT_10 = 20


def opset_newest() -> int:
    """The newest opset that the installed ONNX library and torch's exporter both know."""
    from torch.onnx._constants import ONNX_MAX_OPSET

    return int(min(ONNX_MAX_OPSET, onnx.defs.onnx_opset_version()))


def check_opset(opset: int) -> None:
    """UsageError unless this machine's tools can write `opset`."""
    newest = opset_newest()
    if not OPSET_LOWEST <= opset <= newest:
        hint = (
            f"{OPSET_NEWEST_OF_TENSORRT_10} is the newest that TensorRT 10 reads, 17 that TensorRT 8.6 does"
        )
        raise UsageError(f"opset {opset}: the installed tools write {OPSET_LOWEST} to {newest}", hint)


def check(model: onnx.ModelProto | bytes) -> None:
    """ONNX's own checker, types and shapes included; a failure is our bug. It reads bytes in the end."""
    onnx.checker.check_model(model, full_check=True)
