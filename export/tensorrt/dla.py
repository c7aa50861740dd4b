"""What a Jetson's DLA really takes of an engine: the GPU computes the rest without a word.

The rules are those of TensorRT's documentation: "DLA Supported Layers and Restrictions", "GPU Fallback Mode".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from textual_vision.runtime.engines import DlaCount, ShapeRange
from textual_vision.runtime.errors import DeviceMismatchError, UsageError

# How the log of a build lists an engine's layers: "[DlaLayer] {ForeignNode[conv_0...relu_3]}"
ON_DLA, ON_GPU = "[DlaLayer]", "[GpuLayer]"
PRECISIONS = ("fp16", "int8")


def check_dla_precision(precision: str) -> None:
    """UsageError for arithmetic that no DLA has."""
    if precision not in PRECISIONS:
        raise UsageError(f"a DLA does not compute in {precision}", "give --precision fp16 or int8")


def check_dla_shapes(profile: Mapping[str, ShapeRange], name: str) -> None:
    """UsageError unless every input of the stage `name` has one shape; else all of it falls to the GPU."""
    for tensor, shapes in profile.items():
        if not shapes.min == shapes.opt == shapes.max:
            raise UsageError(
                f"{name}: a DLA runs one shape only, {tensor!r} goes from {shapes.min} to {shapes.max}",
                "give one batch size, --batch-profile 1,1,1, and export with prompts of one length, "
                "tv-export build --prompt-length N",
            )


def dla_count(log: Iterable[str]) -> DlaCount:
    """How many layers of an engine its build's log places where."""
    lines = [line.strip() for text in log for line in text.splitlines()]
    return DlaCount(
        dla=sum(line.startswith(ON_DLA) for line in lines), gpu=sum(line.startswith(ON_GPU) for line in lines)
    )


def check_dla_used(counts: Mapping[str, DlaCount]) -> None:
    """DeviceMismatchError when the DLA takes no layer of any stage; `counts` by the stages' names."""
    if any(count.dla for count in counts.values()):
        return
    shown = ", ".join(f"{stage} 0 of {count.gpu}" for stage, count in counts.items())
    raise DeviceMismatchError(
        f"the DLA takes no layer: {shown}", "leave out --dla: all of it runs on the GPU"
    )
