"""What a picture is conditioned on, as tensors: a prompt, a class label, or nothing."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from textual_vision.runtime.backends.session import Array
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.arguments import prompt_from
from textual_vision.runtime.generation.program import ATTENTION_MASK, INPUT_IDS, LABEL, LENGTHS
from textual_vision.runtime.generation.specs import LabelSpec
from textual_vision.runtime.manifest import Manifest
from textual_vision.runtime.text.tokenizer import PromptNote, PromptPieces, Tokenizer, Tokens

SHOWN_LABELS = 12
NO_NOTE = PromptNote(unknown=(), words_cut=0, nothing_known=False)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """`texts`, one for each row; `tensors` by name, one row each; `notes` on what was not understood."""

    texts: tuple[str, ...]
    tensors: dict[str, Array]
    notes: tuple[PromptNote, ...]


def usual_texts(manifest: Manifest, prompts: Sequence[str], count: int, start: int = 0) -> tuple[str, ...]:
    """`count` conditions from number `start` on: of the prompts, of the model's labels, or empty ones."""
    texts = prompts if manifest.text is not None else ("",)
    if manifest.labels is not None:
        texts = manifest.labels.names
    return tuple(texts[number % len(texts)] for number in range(start, start + count))


class BatchTokenizer(Protocol):
    """Reads prompts into token ids, here or in another process."""

    def encode_batches(self, prompts: Sequence[str], size: int) -> list[Tokens]:
        """Return the tokens of the prompts in batches of at most `size`."""

    def pieces(self, prompt: str) -> PromptPieces:
        """Return the tokens of one prompt as text."""


class ConditionReader:
    """Reads conditions as a bundle's model takes them."""

    def __init__(self, bundle: Bundle, tokenizer: BatchTokenizer | None = None) -> None:
        """`tokenizer` None is the bundle's own. Raises IntegrityError when that is damaged.

        A model without prompts uses no tokenizer, also where one is given.
        """
        text, self._labels = bundle.manifest.text, bundle.manifest.labels
        if text is None:
            tokenizer = None
        elif tokenizer is None:
            tokenizer = Tokenizer(bundle.read(text.tokenizer), text)
        self._tokenizer: BatchTokenizer | None = tokenizer

    def read(self, texts: Sequence[str | int]) -> Condition:
        """The condition of each text: a prompt, a label, or nothing, where only their number counts."""
        (condition,) = self.read_batches(texts, max(1, len(texts)))
        return condition

    def pieces(self, text: str | int) -> PromptPieces:
        """The tokens of a prompt as text; none for a label, or nothing."""
        if self._tokenizer is None:
            return PromptPieces(tokens=(), words=(), names=())
        return self._tokenizer.pieces(prompt_from(text))

    def read_batches(self, texts: Sequence[str | int], size: int) -> list[Condition]:
        """Conditions of at most `size` texts each. Raises UsageError for what the model does not take."""
        parts = [texts[start : start + size] for start in range(0, max(1, len(texts)), size)]
        if self._tokenizer is not None:
            prompts = [prompt_from(text) for text in texts]
            batches = self._tokenizer.encode_batches(prompts, size)
            return [
                _condition_from_tokens(tokens, prompts[index * size : (index + 1) * size])
                for index, tokens in enumerate(batches)
            ]
        if self._labels is not None:
            labels = self._labels
            return [condition_from_labels(labels, part) for part in parts]
        if any(texts):
            problem = f"{texts[0]!r}"[:60]
            raise UsageError(f"the model takes no prompt, found {problem}", "leave it out: only seeds count")
        return [no_condition(len(part)) for part in parts]


def condition_from_prompts(tokenizer: Tokenizer, prompts: Sequence[str]) -> Condition:
    """`input_ids`, `attention_mask` int64 (batch, tokens) and `lengths` int64 (batch,) of the prompts."""
    return _condition_from_tokens(tokenizer.encode(prompts), prompts)


def _condition_from_tokens(tokens: Tokens, prompts: Sequence[str]) -> Condition:
    tensors: dict[str, Array] = {
        INPUT_IDS: tokens.ids,
        ATTENTION_MASK: tokens.mask,
        LENGTHS: tokens.mask.sum(1, dtype=np.int64),
    }
    return Condition(texts=tuple(prompts), tensors=tensors, notes=tokens.notes)


def condition_from_labels(labels: LabelSpec, given: Sequence[str | int]) -> Condition:
    """`label` int64 (batch,), each given by its name or its number.

    Raises UsageError for a name that there is not, or a number out of range.
    """
    if not given:
        raise UsageError("no label", f"choose {_choices(labels)}")
    numbers = [_number_of(labels, one) for one in given]
    texts = tuple(labels.names[number] for number in numbers)
    return Condition(texts=texts, tensors={LABEL: np.array(numbers, np.int64)}, notes=(NO_NOTE,) * len(texts))


def no_condition(rows: int = 1) -> Condition:
    """The condition of a model that takes noise alone: rows without tensors."""
    return Condition(texts=("",) * rows, tensors={}, notes=(NO_NOTE,) * rows)


def _number_of(labels: LabelSpec, given: str | int) -> int:
    if isinstance(given, str):
        if given in labels.names:
            return labels.names.index(given)
        if not (given.isascii() and given.isdecimal() and len(given) <= 9):
            near = difflib.get_close_matches(given, labels.names, 1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError(f"no label {given[:40]!r}", f"{meant}choose {_choices(labels)}")
        given = int(given)
    if not 0 <= given < len(labels.names):
        raise UsageError(f"label {given} is out of range", f"choose {_choices(labels)}")
    return int(given)


def _choices(labels: LabelSpec) -> str:
    names = labels.names
    numbers = f"a number from 0 to {len(names) - 1}"
    if len(names) > SHOWN_LABELS or names == tuple(map(str, range(len(names)))):
        return numbers
    return f"{numbers} or one of: {', '.join(names)}"
