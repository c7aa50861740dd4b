"""The prompts of a verification: natural ones, and random words stratified by length and rarity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from textual_vision.export.model.prompts import CALIBRATED, COMPARED
from textual_vision.runtime.console import SEED

if TYPE_CHECKING:
    from textual_vision.export.model.stage import StagedModel

RARITIES = ("common", "middle", "rare")
LENGTHS = (1, 2, 3, 5, 8, 12, 20)  # words; the model's maximum is added
# Case, accents, punctuation, an unknown sign and a number, next to a known word.
ODD = ("A RED Apple!", "café, house", "dog 🐕", "two-thirty (cat)", "x", "an 8 o'clock train")
OVERLONG = 2  # times the model's maximum, to compare how prompts are cut
NATURAL_SHARE = 2  # every second prompt is a natural one


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture to compare: a prompt (or label, or nothing) and a seed."""

    text: str
    seed: int
    stratum: str


def samples_of(
    model: StagedModel, count: int, *, seed: int, prompts: Sequence[str] | None = None
) -> tuple[Sample, ...]:
    """Return `count` samples, the same for the same arguments.

    Half are natural prompts. The others are words of the vocabulary: every length with every third of the
    vocabulary's order, which common tokenizers sort by frequency. `prompts` replace both. Seeds are random
    and independent of the prompts.
    """
    from textual_vision.export.model.running import texts_of  # with torch, which a device has not

    generator = np.random.default_rng([seed, count])
    seeds = [int(one) for one in generator.integers(0, SEED.max or 1, count)]
    if model.text is None:
        texts = (
            texts_of(model, tuple(prompts or ()), count) if prompts else _conditions(model, count, generator)
        )
        strata = ["label" if model.labels is not None else "none"] * count
    elif prompts:
        texts = [prompts[index % len(prompts)] for index in range(count)]
        strata = ["given"] * count
    else:
        chosen = _stratified(model, count, generator)
        texts, strata = [text for text, _ in chosen], [stratum for _, stratum in chosen]
    rows = zip(texts, seeds, strata, strict=True)
    return tuple(Sample(text=text, seed=one, stratum=stratum) for text, one, stratum in rows)


def words_by_rarity(tokenizer: bytes) -> dict[str, list[str]]:
    """Return the vocabulary's whole words in three parts of equal size, common ones first."""
    words = _words(tokenizer)
    parts = np.array_split(np.arange(len(words)), len(RARITIES))
    return {name: [words[index] for index in part] for name, part in zip(RARITIES, parts, strict=True)}


def _conditions(model: StagedModel, count: int, generator: np.random.Generator) -> Sequence[str]:
    if model.labels is None:
        return [""] * count
    names = model.labels.names
    order = generator.permutation(len(names))
    return [names[order[index % len(names)]] for index in range(count)]


def _stratified(model: StagedModel, count: int, generator: np.random.Generator) -> list[tuple[str, str]]:
    natural = [*COMPARED, *CALIBRATED]
    assert model.text is not None and model.tokenizer is not None
    words = {name: part for name, part in words_by_rarity(model.tokenizer).items() if part}
    longest = model.text.max_tokens
    strata = [(length, name) for length in (*LENGTHS, longest, OVERLONG * longest) for name in words]
    odd = [] if model.text.drop_unknown else [*ODD]
    natural = [text for text in natural if not model.text.drop_unknown or _known(text, model)]
    order = generator.permutation(len(strata))
    found: list[tuple[str, str]] = []
    for index in range(count):
        turn = index // NATURAL_SHARE
        if natural and (index % NATURAL_SHARE == 0 or not strata):
            found.append((natural[turn % len(natural)], "natural"))
        elif turn < len(odd):
            found.append((odd[turn], "odd"))
        else:
            length, name = strata[order[turn % len(strata)]]
            chosen = generator.choice(words[name], length)
            found.append((" ".join(chosen), f"{length} {name} words"))
    return found


def _known(text: str, model: StagedModel) -> bool:
    """Whether a tokenizer that drops unknown words keeps any of the text."""
    from textual_vision.runtime.errors import UsageError
    from textual_vision.runtime.text.tokenizer import Tokenizer

    assert model.text is not None and model.tokenizer is not None
    try:
        Tokenizer(model.tokenizer, model.text).encode_batches([text], 1)
    except UsageError:
        return False
    return True


def _words(tokenizer: bytes) -> list[str]:
    """The vocabulary's whole words in the order of their ids."""
    vocabulary = json.loads(tokenizer).get("model", {}).get("vocab", {})
    entries = vocabulary.items() if isinstance(vocabulary, dict) else ()
    ordered = sorted((number, token) for token, number in entries)
    plain = (token.lstrip("Ġ▁") for _, token in ordered)
    return [token for token in plain if token.isalpha() and len(token) > 1]
