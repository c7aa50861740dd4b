"""From a config's `corpus` to captioned pictures and the licences that travel with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from textual_vision.runtime.errors import UsageError
from textual_vision.training.batches import PictureSource
from textual_vision.training.config import TrainConfig
from textual_vision.training.corpus import load_corpus
from textual_vision.training.emoji_source import EmojiSource
from textual_vision.training.notice import WEIGHT_CREDITS, notice_text

DEFAULT_CORPUS = Path("out/corpus")


@dataclass(frozen=True, kw_only=True)
class SourceWithNotice:
    """Pictures to train on or to judge by, and the NOTICE of what is trained on them."""

    source: PictureSource
    notice: str


def open_source(config: TrainConfig, folder: Path, splits: Sequence[str]) -> SourceWithNotice:
    """The pictures in `folder` that belong to one of `splits`; UsageError when there are none."""
    # `tv-train data` makes the same memory-mapped corpus of all kinds of sources.
    source = EmojiSource(load_corpus(folder), splits, config.model.image_size)
    if len(source) == 0:
        raise UsageError(f"{folder} has no picture of the splits {', '.join(splits)}")
    return SourceWithNotice(source=source, notice=notice_of(config))


def notice_of(config: TrainConfig) -> str:
    """The NOTICE for a model of this config."""
    if config.corpus == "emoji":
        return notice_text()
    weights = "\n".join(f"- {credit}" for credit in WEIGHT_CREDITS)
    return (
        "Trained with Textual Vision (Apache License 2.0) on pictures whose licences are their owner's to "
        f"state.\n\nWeights of other projects:\n\n{weights}\n"
    )
