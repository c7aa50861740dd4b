"""Check which layers of an engine run on a Jetson's DLA; TensorRT runs the rest on the GPU silently.

The rules come from TensorRT's documentation: "DLA Supported Layers and Restrictions", "GPU Fallback Mode".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from textual_vision.runtime.engines import DlaCount, ShapeRange
from textual_vision.runtime.errors import DeviceMismatchError, UsageError

# Prefixes of layers in the log of a build, as in "[DlaLayer] {ForeignNode[conv_0...relu_3]}".
DLA_LOG_PREFIX, GPU_LOG_PREFIX = "[DlaLayer]", "[GpuLayer]"
PRECISIONS = ("fp16", "int8")


def check_dla_precision(precision: str) -> None:
    """Raise UsageError for a precision that no DLA computes in."""
    if precision not in PRECISIONS:
        raise UsageError(f"a DLA does not compute in {precision}", "give --precision fp16 or int8")


def check_dla_shapes(profile: Mapping[str, ShapeRange], name: str) -> None:
    """Raise UsageError unless every input of the stage `name` has one shape; a DLA runs no other stages."""
    for tensor, shapes in profile.items():
        if not shapes.min == shapes.opt == shapes.max:
            raise UsageError(
                f"{name}: a DLA needs one shape, and {tensor!r} varies from {shapes.min} to {shapes.max}",
                "give one batch size, --batch-profile 1,1,1, and export with prompts of one length, "
                "tv-export build --prompt-length N",
            )


def dla_count(log: Iterable[str]) -> DlaCount:
    """Return how many layers the log of a build places on the DLA and on the GPU."""
    lines = [line.strip() for text in log for line in text.splitlines()]
    return DlaCount(
        dla=sum(line.startswith(DLA_LOG_PREFIX) for line in lines),
        gpu=sum(line.startswith(GPU_LOG_PREFIX) for line in lines),
    )


def check_dla_used(counts: Mapping[str, DlaCount]) -> None:
    """Raise DeviceMismatchError when the DLA runs no layer of any stage; `counts` are by stage."""
    if any(count.dla for count in counts.values()):
        return
    shown = ", ".join(f"{stage} 0 of {count.gpu}" for stage, count in counts.items())
    raise DeviceMismatchError(
        f"the DLA takes no layer: {shown}", "leave out --dla, because everything runs on the GPU"
    )
