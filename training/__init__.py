"""Training: from captioned pictures to a checkpoint."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textual_vision.training.checkpoint import Checkpoint, load_checkpoint
    from textual_vision.training.config import SamplingConfig, TrainConfig
    from textual_vision.training.config_file import load_config
    from textual_vision.training.trainer.train import train

__all__ = ["Checkpoint", "SamplingConfig", "TrainConfig", "load_checkpoint", "load_config", "train"]

MODULE_FROM_NAME = {
    "Checkpoint": "checkpoint",
    "SamplingConfig": "config",
    "TrainConfig": "config",
    "load_checkpoint": "checkpoint",
    "load_config": "config_file",
    "train": "trainer.train",
}


def __getattr__(name: str) -> Any:
    """A public name, imported at its first use, so that `import textual_vision.training` needs no torch."""
    if name not in MODULE_FROM_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{MODULE_FROM_NAME[name]}"), name)
