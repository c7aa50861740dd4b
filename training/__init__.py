"""Training: from captioned pictures to a checkpoint."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textual_vision.training.checkpoint import Checkpoint, load_checkpoint
    from textual_vision.training.config import SamplingConfig, TrainConfig
    from textual_vision.training.config_file import load_config
    from textual_vision.training.trainer.train import train

_MODULES = {
    "Checkpoint": "checkpoint",
    "SamplingConfig": "config",
    "TrainConfig": "config",
    "load_checkpoint": "checkpoint",
    "load_config": "config_file",
    "train": "trainer.train",
}
__all__ = ["Checkpoint", "SamplingConfig", "TrainConfig", "load_checkpoint", "load_config", "train"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `--help` does not wait for torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
