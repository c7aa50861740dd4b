"""One call from a config and a corpus to a checkpoint."""

from __future__ import annotations

from pathlib import Path

from textual_vision.runtime.progress import ProgressCallback
from textual_vision.training.config import TrainConfig
from textual_vision.training.data.splits import TRAIN
from textual_vision.training.sources import open_source, validation_source
from textual_vision.training.trainer.trainer import run


def train(
    config: TrainConfig,
    corpus: Path,
    output: Path,
    *,
    resume: bool = False,
    on_progress: ProgressCallback = print,
) -> Path:
    """Train `config` on `corpus` through every phase; return the folder of the checkpoint.

    `output` is the folder of the run, which `resume` continues. `on_progress` takes lines of text.
    Raise UsageError when the corpus has no training picture, or when `output` has a run and `resume` is not
    set; IntegrityError when the corpus is damaged.
    """
    training = open_source(config, corpus, (TRAIN,), on_progress)
    return run(
        config,
        training.source,
        training.notice,
        output,
        resume=resume,
        on_progress=on_progress,
        validation=validation_source(config, corpus, on_progress),
    )
