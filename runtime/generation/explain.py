"""How a picture came about: tokens, their weights, the codes, and the region that each word changes.

A word's region is found by occlusion: the picture is generated again, from the same noise, without the word's
tokens (Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, who occlude
parts of a picture). It needs nothing of a model but that it generates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.generation.conditions import Condition
from textual_vision.runtime.generation.consistency import CODES, IMAGE
from textual_vision.runtime.generation.program import ATTENTION_MASK, INPUT_IDS, LENGTHS
from textual_vision.runtime.generation.text import Tensors
from textual_vision.runtime.manifest import TextSpec
from textual_vision.runtime.text.tokenizer import PromptPieces

ATTENTION = "attention"  # the output that has each token's weight
Generate = Callable[[Condition, int], Tensors]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One picture, and what led to it.

    `tokens` are the prompt's tokens as the model reads them, `token_words` the number of each one's word (-1
    for special tokens); `weights` float32 (tokens,) is how much each
    counts in the text, None for a model that does not tell. `words` are the words that the tokens make up.
    `influence` float32 (words, height, width), 0 to 1, is how much a pixel changes when the picture is made
    without the word; `changed_codes` (words, rows, columns) says which codes change. `codes` int64
    (rows, columns) and `changed_codes` are None for a model without codes.
    """

    prompt: str
    seed: int
    image: npt.NDArray[np.uint8]
    codes: npt.NDArray[np.int64] | None
    tokens: tuple[str, ...]
    token_words: tuple[int, ...]
    weights: npt.NDArray[np.float32] | None
    words: tuple[str, ...]
    influence: npt.NDArray[np.float32]
    changed_codes: npt.NDArray[np.bool_] | None


def explain(
    condition: Condition, pieces: PromptPieces, seed: int, text: TextSpec | None, generate: Generate
) -> Explanation:
    """The explanation of `condition`'s only row, whose tokens are `pieces`; `generate` gives all tensors."""
    whole = generate(condition, seed)
    named = zip(pieces.words, pieces.names, strict=True)
    words = {number: name for number, name in sorted(set(named)) if number >= 0}
    without = [
        generate(without_word(condition, pieces, number, text), seed) for number in words if text is not None
    ]
    image = whole[IMAGE][0]
    change = [np.abs(one[IMAGE][0].astype(np.float32) - image).mean(-1) / np.float32(255) for one in without]
    codes = whole[CODES][0] if CODES in whole else None
    weights = whole.get(ATTENTION)
    height, width = image.shape[:2]
    return Explanation(
        prompt=condition.texts[0],
        seed=seed,
        image=image,
        codes=codes,
        tokens=pieces.tokens,
        token_words=pieces.words,
        weights=None if weights is None else weights[0, : len(pieces.tokens)].astype(np.float32),
        words=tuple(words.values()),
        influence=np.array(change, np.float32).reshape(-1, height, width),
        changed_codes=None
        if codes is None
        else np.array([one[CODES][0] != codes for one in without], np.bool_).reshape(-1, *codes.shape),
    )


def without_word(condition: Condition, pieces: PromptPieces, number: int, text: TextSpec) -> Condition:
    """The condition of one prompt without the tokens of a word, padded where the length is fixed."""
    kept = [place for place, word in enumerate(pieces.words) if word != number]
    length = text.max_tokens if text.fixed_length else len(kept)
    ids, mask = np.full((1, length), text.pad_id, np.int64), np.zeros((1, length), np.int64)
    ids[0, : len(kept)] = condition.tensors[INPUT_IDS][0, kept]
    mask[0, : len(kept)] = 1
    tensors = {INPUT_IDS: ids, ATTENTION_MASK: mask, LENGTHS: mask.sum(1, dtype=np.int64)}
    return replace(condition, tensors={**condition.tensors, **tensors})
