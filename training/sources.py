"""The captioned pictures of a config's `corpus`, and the NOTICE with their licenses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.progress import ProgressCallback
from textual_vision.training.config import TrainConfig
from textual_vision.training.data.batches import PictureSource
from textual_vision.training.data.corpus import SUMMARY, load_corpus
from textual_vision.training.data.corpus_source import CorpusSource
from textual_vision.training.data.shard_source import ShardPictures
from textual_vision.training.data.shards import find_shards
from textual_vision.training.data.splits import VALIDATION
from textual_vision.training.emoji.notice import WEIGHT_CREDITS, notice_text


@dataclass(frozen=True, kw_only=True)
class SourceWithNotice:
    """Pictures for training or evaluation, and the NOTICE of a model trained on them."""

    source: PictureSource
    notice: str


def open_source(
    config: TrainConfig, folder: Path, splits: Sequence[str], on_progress: ProgressCallback = print
) -> SourceWithNotice:
    """The pictures of `splits` in the corpus at `folder`; UsageError when there are none."""
    source = _source(config, folder, splits, on_progress)
    if len(source) == 0:
        raise UsageError(f"{folder} has no picture of the splits {', '.join(splits)}")
    return SourceWithNotice(source=source, notice=notice_of(config))


def validation_source(
    config: TrainConfig, folder: Path, on_progress: ProgressCallback = print
) -> PictureSource:
    """The validation pictures in the corpus at `folder`, by which a run selects weights; may be empty."""
    return _source(config, folder, (VALIDATION,), on_progress)


def _source(
    config: TrainConfig, folder: Path, splits: Sequence[str], on_progress: ProgressCallback
) -> PictureSource:
    """Read tar shards in place, everything else as the memory-mapped corpus of `tv-train data`."""
    if config.corpus == "shards" and not (folder / SUMMARY).is_file():
        return ShardPictures(find_shards(folder), splits, config.model.image_size, on_progress)
    return CorpusSource(load_corpus(folder), splits, config.model.image_size)


def notice_of(config: TrainConfig) -> str:
    """The NOTICE for a model of this config."""
    if config.corpus == "emoji":
        return notice_text()
    weights = "\n".join(f"- {credit}" for credit in WEIGHT_CREDITS)
    return (
        "Trained with Textual Vision (Apache License 2.0) on pictures whose licenses are their owner's to "
        f"state.\n\nWeights of other projects:\n\n{weights}\n"
    )
