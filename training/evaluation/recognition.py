"""Recognition: whether a generated picture shows the content of its prompt, by probes of real pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textual_vision.training.data.corpus import Corpus
from textual_vision.training.data.corpus_source import CorpusSource
from textual_vision.training.data.records import Record
from textual_vision.training.data.splits import SPLITS, hashed_share
from textual_vision.training.emoji.wearing import ANIMALS
from textual_vision.training.evaluation.features import EfficientNetFeatures
from textual_vision.training.evaluation.probes import Probe, answers_unseen, probe_from_pictures

BARE = "nothing"  # the accessory of an animal without one
SUNGLASSES = "sunglasses"
FOLDS = 10
SCENE_PARTS = ("ground", "water", "backdrop", "sky")

Features = NDArray[np.float32]


def wearing_of(record: Record) -> tuple[str, str] | None:
    """(animal, accessory) of a composition or of an animal without accessory; None for other pictures."""
    if record.kind == "wearing":
        _, accessory, animal = record.concept.split(":")
        return ANIMALS[animal], accessory
    return (ANIMALS[record.concept], BARE) if record.concept in ANIMALS else None


def scene_of(record: Record) -> tuple[str, ...] | None:
    """Ground, water, backdrop and sky of a scene; None for other pictures."""
    if record.kind != "scene":
        return None
    return tuple(part or "none" for part in record.concept.removeprefix("scene:").split("|"))


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Probes by their names.

    `real` has for each real picture the true answers, and the answers of probes fitted without it.
    """

    probes: Mapping[str, Probe]
    real: Sequence[tuple[Mapping[str, str], Mapping[str, str]]]

    def ceiling(self, wanted: Mapping[str, str]) -> float | None:
        """Share of the real pictures with the wanted answers that are recognized; None without any."""
        told = [said for shown, said in self.real if wanted.items() <= shown.items()]
        return float(np.mean([wanted.items() <= said.items() for said in told])) if told else None

    def accuracy(self, name: str) -> float:
        """Share of the real pictures for which one probe gives the true answer."""
        told = [shown[name] == said[name] for shown, said in self.real if name in shown]
        return float(np.mean(told))

    def shows(self, features: Features, wanted: Mapping[str, str]) -> NDArray[np.bool_]:
        """Whether the probes give every wanted answer for features (N, combined): bool (N,)."""
        right = np.ones(len(features), bool)
        for name, answer in wanted.items():
            right &= np.array(self.probes[name].answer(features)) == answer
        return right


def judge_from_corpus(corpus: Corpus, size: int, extractor: EfficientNetFeatures) -> Judge | None:
    """Probes fitted to all real compositions and scenes at `size` pixels; None when there are none.

    All splits are used, since the probes must know held-out compositions. Their accuracy is measured by
    ten-fold cross-validation.
    """
    source = CorpusSource(corpus, SPLITS, size)
    shown = {index: answers_of(record) for index, (_, record) in enumerate(source.records)}
    shown = {index: answers for index, answers in shown.items() if answers}
    if not shown:
        return None
    features = extractor.extract(np.stack([source.picture(index) for index in shown])).combined
    row = {index: number for number, index in enumerate(shown)}
    said: dict[int, dict[str, str]] = {index: {} for index in shown}
    probes = {}
    for name in sorted({name for answers in shown.values() for name in answers}):
        chosen = [index for index, answers in shown.items() if name in answers]
        seen = features[[row[index] for index in chosen]]
        told = [shown[index][name] for index in chosen]
        probes[name] = probe_from_pictures(seen, told)
        folds = [int(FOLDS * hashed_share(source.records[index][1].key)) for index in chosen]
        for index, answer in zip(chosen, answers_unseen(seen, told, folds), strict=True):
            said[index][name] = answer
    return Judge(probes=probes, real=[(shown[index], said[index]) for index in shown])


def answers_of(record: Record) -> dict[str, str]:
    """The true answer of every probe for the picture of a record."""
    if (worn := wearing_of(record)) is not None:
        animal, accessory = worn
        return {
            "animal": animal,
            "wears": accessory,
            "sunglasses": "with" if accessory == SUNGLASSES else "without",
        }
    if (parts := scene_of(record)) is not None:
        return dict(zip(SCENE_PARTS, parts, strict=True))
    return {}
