"""Scores of a checkpoint on held-out pictures and captions, with the scores of real pictures.

`evaluate` returns JSON values and a contact sheet; docs/reference/metrics.md defines each score.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.files import write_atomic
from textual_vision.runtime.progress import ProgressCallback
from textual_vision.training.checkpoint import Checkpoint
from textual_vision.training.data.batches import caption_with_style
from textual_vision.training.data.corpus import Corpus
from textual_vision.training.data.corpus_source import CorpusSource
from textual_vision.training.data.splits import EVALUATION_SPLITS, TRAIN
from textual_vision.training.evaluation import measures
from textual_vision.training.evaluation.alignment import Sentences, Towers, load_towers, recall_at_1
from textual_vision.training.evaluation.contact_sheet import contact_sheet
from textual_vision.training.evaluation.features import DETAIL, EfficientNetFeatures, ImageFeatures, kid
from textual_vision.training.evaluation.recognition import Judge, answers_of, judge_from_corpus
from textual_vision.training.evaluation.sampling import (
    Pictures,
    generate_images,
    psnr_of_pictures,
    reconstruct,
)

SEEDS = 32  # of each named prompt
DIVERSE_PROMPTS, DIVERSE_SEEDS = 24, 8
SHEET_COLUMNS, SHEET_PICTURES = 8, 64
USAGE_CAPTIONS = 4000
# Prompts, and the answers of probes that a picture must give. No picture of the first three is trained on.
# Captions of the emoji corpus combine the words of the others differently, or do not contain them.
DOG = {"animal": "dog", "sunglasses": "with"}
FOREST = {"ground": "forest", "water": "river"}
ASKED: Mapping[str, Mapping[str, str]] = {
    "dog wearing sunglasses": DOG,
    "puppy with shades": DOG,
    "a doggy in dark glasses": DOG,
    "green forest with river": FOREST,
    "woods with a stream": FOREST,
}

Features = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Real held-out pictures, and pictures generated from their captions."""

    source: CorpusSource
    labels: list[str]  # the plainest caption, without the art style
    prompts: list[str]  # with it
    splits: list[str]
    real: Pictures
    generated: Pictures
    real_features: ImageFeatures
    generated_features: ImageFeatures


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """`scores` are JSON values; `sheet` is a PNG of held-out prompts."""

    scores: dict[str, Any]
    sheet: bytes

    def save(self, folder: Path) -> None:
        """Write evaluation.json and contact_sheet.png to `folder`."""
        write_atomic(folder / "evaluation.json", (json.dumps(self.scores, indent=2) + "\n").encode())
        write_atomic(folder / "contact_sheet.png", self.sheet)


def evaluate(
    checkpoint: Checkpoint, corpus: Corpus, *, limit: int | None, on_progress: ProgressCallback
) -> Evaluation:
    """All scores of `checkpoint`.

    `limit` is the number of held-out pictures, evenly spaced; None takes all. Raise UsageError when the
    corpus has no held-out picture.
    """
    extractor = EfficientNetFeatures()
    on_progress("generating pictures of the held-out captions")
    held = _held_out(checkpoint, corpus, extractor, limit)
    on_progress(f"{len(held.labels)} held-out pictures; reconstructing them")
    again = reconstruct(checkpoint.model, checkpoint.tokenizer, held.real, held.prompts)
    psnr = psnr_of_pictures(held.real, again.pictures)
    on_progress("alignment and compositions")
    scores = {
        "checkpoint": checkpoint.config.name,
        "held_out_pictures": len(held.labels),
        "features": f"EfficientNet-Lite2, pictures at {DETAIL} px or less",
        "reconstruction": {
            "psnr_db": _round(psnr.mean()),
            "psnr_db_worst_tenth": _round(np.quantile(psnr, 0.1)),
        },
        "kid_x1000": _kid(held),
        "alignment": _alignment(held, *load_towers()),
        "recognition": _recognition(checkpoint, corpus, held, extractor),
        "image_codes": measures.image_codes(checkpoint, again.codes),
        "text_codes": _text_codes(checkpoint, corpus),
        "diversity": _diversity(checkpoint, held, extractor),
    }
    on_progress("nearest training pictures")
    train = CorpusSource(corpus, (TRAIN,), checkpoint.config.model.image_size)
    scores["copying"] = measures.copying(measures.TrainingThumbs(train), held.generated, held.real)
    return Evaluation(scores=scores, sheet=_sheet(held))


def _held_out(
    checkpoint: Checkpoint, corpus: Corpus, extractor: EfficientNetFeatures, limit: int | None
) -> HeldOut:
    source = CorpusSource(corpus, EVALUATION_SPLITS, checkpoint.config.model.image_size)
    if len(source) == 0:
        raise UsageError(
            f"the corpus has no picture of the splits {', '.join(EVALUATION_SPLITS)} to evaluate on",
            "make it from more pictures: about 3 in 100 are held out",
        )
    chosen = list(range(len(source)))
    if limit is not None and limit < len(chosen):
        chosen = [int(index) for index in np.linspace(0, len(chosen) - 1, limit)]
    labels = [source.captions(index)[0] for index in chosen]
    prompts = [caption_with_style(label, source.style(i)) for label, i in zip(labels, chosen, strict=True)]
    real = np.stack([source.picture(index) for index in chosen])
    generated = generate_images(checkpoint.model, checkpoint.tokenizer, prompts, chosen).pictures
    return HeldOut(
        source=source,
        labels=labels,
        prompts=prompts,
        splits=[source.records[index][1].split for index in chosen],
        real=real,
        generated=generated,
        real_features=extractor.extract(real),
        generated_features=extractor.extract(generated),
    )


def _kid(held: HeldOut) -> dict[str, float]:
    """KID of generated and real pictures, and as a floor of two halves of the real ones."""
    half = np.arange(len(held.labels)) % 2 == 0
    floor = kid(held.real_features.pooled[half], held.real_features.pooled[~half])
    return {
        "generated": _round(1e3 * kid(held.generated_features.pooled, held.real_features.pooled)),
        "two_halves_of_real": _round(1e3 * floor),
    }


def _alignment(held: HeldOut, towers: Towers, about: Mapping[str, Any]) -> dict[str, Any]:
    """R@1 of real and generated pictures among all distinct held-out labels, in all and by split."""
    distinct = sorted(set(held.labels))
    sentences = Sentences().vectors(distinct)
    own = np.array([distinct.index(label) for label in held.labels])
    splits = np.array(held.splits)
    found: dict[str, Any] = {"labels": len(distinct), "model": about}
    for name in ("all", *sorted(set(held.splits))):
        chosen = np.ones(len(own), bool) if name == "all" else splits == name
        real = recall_at_1(towers, held.real_features.pooled[chosen], sentences, own[chosen].tolist())
        generated = recall_at_1(
            towers, held.generated_features.pooled[chosen], sentences, own[chosen].tolist()
        )
        share = _round(generated / real, 3) if real else None
        found[name] = {
            "pictures": int(chosen.sum()),
            "real": _round(real, 3),
            "generated": _round(generated, 3),
            "share": share,
        }
    return found


def _recognition(
    checkpoint: Checkpoint, corpus: Corpus, held: HeldOut, extractor: EfficientNetFeatures
) -> dict[str, Any] | None:
    """Recognition of named prompts over many seeds and of held-out compositions; None without any."""
    judge = judge_from_corpus(corpus, checkpoint.config.model.image_size, extractor)
    if judge is None:
        return None
    found: dict[str, Any] = {
        "probe_accuracy_on_unseen_pictures": {n: _round(judge.accuracy(n), 3) for n in judge.probes}
    }
    prompts = {}
    for prompt, wanted in ASKED.items():
        if not wanted.keys() <= judge.probes.keys():
            continue
        generated = generate_images(
            checkpoint.model, checkpoint.tokenizer, [prompt] * SEEDS, range(SEEDS)
        ).pictures
        prompts[prompt] = _asked(judge, extractor.extract(generated).combined, wanted)
    return {**found, "seeds": SEEDS, "prompts": prompts, "held_out": _held_compositions(judge, held)}


def _asked(judge: Judge, features: Features, wanted: Mapping[str, str]) -> dict[str, Any]:
    parts = {n: _round(judge.shows(features, {n: answer}).mean(), 3) for n, answer in wanted.items()}
    ceiling = judge.ceiling(wanted)
    return {
        "wanted": dict(wanted),
        "recognized": _round(judge.shows(features, wanted).mean(), 3),
        **parts,
        "real": None if ceiling is None else _round(ceiling, 3),
    }


def _held_compositions(judge: Judge, held: HeldOut) -> dict[str, Any]:
    """Accuracy of each probe on real and generated pictures of held-out compositions and scenes."""
    by_label = {record.captions[0]: answers_of(record) for _, record in held.source.records}
    found: dict[str, Any] = {}
    for name in judge.probes:
        rows = [i for i, label in enumerate(held.labels) if name in by_label[label]]
        if not rows:
            continue
        told = np.array([by_label[held.labels[i]][name] for i in rows])
        right = {
            kind: float((np.array(judge.probes[name].answer(features[rows])) == told).mean())
            for kind, features in (
                ("real", held.real_features.combined),
                ("generated", held.generated_features.combined),
            )
        }
        found[name] = {"pictures": len(rows), **{kind: _round(share, 3) for kind, share in right.items()}}
    return found


def _text_codes(checkpoint: Checkpoint, corpus: Corpus) -> dict[str, Any]:
    captions = sorted({caption for record in corpus.records for caption in record.captions})
    random = np.random.default_rng(0)
    chosen = random.choice(len(captions), min(USAGE_CAPTIONS, len(captions)), replace=False)
    return measures.text_codes(checkpoint, [captions[int(index)] for index in chosen])


def _diversity(checkpoint: Checkpoint, held: HeldOut, extractor: EfficientNetFeatures) -> dict[str, float]:
    """Mean cosine distance of features between seeds of a prompt without style, and between prompts."""
    labels = _spread(sorted(set(held.labels)), DIVERSE_PROMPTS)
    prompts = [label for label in labels for _ in range(DIVERSE_SEEDS)]
    seeds = list(range(DIVERSE_SEEDS)) * len(labels)
    features = extractor.extract(
        generate_images(checkpoint.model, checkpoint.tokenizer, prompts, seeds).pictures
    ).pooled
    each = features.reshape(len(labels), DIVERSE_SEEDS, -1)
    return {
        "between_seeds": _round(float(np.mean([measures.spread(one) for one in each])), 4),
        "between_prompts": _round(measures.spread(each[:, 0]), 4),
        "between_real_pictures": _round(measures.spread(held.real_features.pooled), 4),
    }


def _sheet(held: HeldOut) -> bytes:
    """A contact sheet of evenly spaced held-out prompts, compositions first."""
    first = [i for i, split in enumerate(held.splits) if split == "heldout_composition"]
    others = [i for i in range(len(held.labels)) if i not in set(first)]
    chosen = first[:SHEET_COLUMNS] + _spread(others, SHEET_PICTURES - len(first[:SHEET_COLUMNS]))
    return contact_sheet(held.generated[chosen], [held.prompts[i] for i in chosen], SHEET_COLUMNS)


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, min(count, len(items)))]


def _round(value: float, digits: int = 2) -> float:
    return round(float(value), digits)
