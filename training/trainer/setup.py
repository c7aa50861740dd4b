"""What a run settles before its first step: precision, batches, whose words it knows, how it is stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from textual_vision.runtime.console import EXIT_INTERRUPTED
from textual_vision.runtime.errors import TextualVisionError, UsageError
from textual_vision.training.config import TrainConfig
from textual_vision.training.data.batches import PictureSource, caption_with_style
from textual_vision.training.trainer.state import PHASES

CAPTIONED_PICTURES = 200_000  # whose captions the vocabulary is made from


def mixed_precision(precision: str) -> str:
    """accelerate's word for it; `auto` is bfloat16 where the device has units that multiply it."""
    if precision == "auto":
        if torch.cuda.is_available():
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            # Intel's AMX: products nine times as fast as in float32, a whole step twice.
            fast = bool(torch.cpu.get_capabilities().get("amx_bf16", False))
        return "bf16" if fast else "no"
    return "bf16" if precision == "bfloat16" else "no"


def check_batch_sizes(config: TrainConfig, processes: int) -> None:
    """UsageError when a batch can't be dealt out evenly."""
    for name in PHASES:
        batch = getattr(config, f"{name}_phase").batch_size
        if batch % processes:
            raise UsageError(
                f"{name}_phase.batch_size {batch} is no multiple of the {processes} processes",
                "change the one or the other",
            )


def all_captions(source: PictureSource) -> list[str]:
    """Every distinct caption, with and without its style, sorted; of a huge corpus, evenly chosen."""
    found = set()
    for index in range(0, len(source), -(-len(source) // CAPTIONED_PICTURES)):
        for caption in source.captions(index):
            found |= {caption, caption_with_style(caption, source.style(index))}
    return sorted(found)


class InterruptedRunError(TextualVisionError):
    """Someone asked the run to stop; it is saved."""

    exit_code = EXIT_INTERRUPTED


class Interrupts:
    """The first SIGINT or SIGTERM only sets `asked`, so that a step can end; the next one stops."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
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
        self.say("finishing this step, then saving (once more to stop at once)")
