"""Setup of a run: precision, batch sizes, captions of the vocabulary, and interrupts."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import torch

from textual_vision.runtime.console import EXIT_INTERRUPTED
from textual_vision.runtime.errors import TextualVisionError, UsageError
from textual_vision.runtime.progress import ProgressCallback
from textual_vision.training.config import TrainConfig
from textual_vision.training.data.batches import PictureSource, caption_with_style
from textual_vision.training.trainer.state import PHASES

CAPTIONED_PICTURES = 200_000  # whose captions decide the vocabulary, at most


def mixed_precision(precision: str) -> str:
    """The name of a precision in accelerate; `auto` is bfloat16 where the device has units for it."""
    if precision == "auto":
        if torch.cuda.is_available():
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            # Intel's AMX multiplies nine times as fast as in float32, and a step takes half of the time.
            fast = bool(torch.cpu.get_capabilities().get("amx_bf16", False))
        return "bf16" if fast else "no"
    return "bf16" if precision == "bfloat16" else "no"


def check_batch_sizes(config: TrainConfig, processes: int) -> None:
    """Raise UsageError when a batch can't be divided evenly among the processes."""
    for name in PHASES:
        batch = getattr(config, f"{name}_phase").batch_size
        if batch % processes:
            raise UsageError(
                f"{name}_phase.batch_size {batch} is not a multiple of the {processes} processes",
                "change the batch size or the number of processes",
            )


def all_captions(source: PictureSource) -> list[str]:
    """Every distinct caption with and without its style, sorted; of a large corpus, evenly spaced ones."""
    found = set()
    for index in range(0, len(source), -(-len(source) // CAPTIONED_PICTURES)):
        for caption in source.captions(index):
            found |= {caption, caption_with_style(caption, source.style(index))}
    return sorted(found)


class InterruptedRunError(TextualVisionError):
    """The run was asked to stop, and has been saved."""

    exit_code = EXIT_INTERRUPTED


class Interrupts:
    """A context in which the first SIGINT or SIGTERM only sets `asked`, so that the step can end."""

    def __init__(self, on_progress: ProgressCallback) -> None:
        self.on_progress = on_progress
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        self._before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.on_progress("finishing this step, then saving (interrupt again to stop at once)")
