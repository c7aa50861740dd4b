"""Prompts into token ids, saying what was not understood and what was cut."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.errors import (
    IntegrityError,
    PromptWarning,
    TextualVisionError,
    UsageError,
    shortened,
)
from textual_vision.runtime.manifest import TextSpec
from textual_vision.runtime.text.prompt_text import plain_prompt
from textual_vision.runtime.text.tokenizer_file import check_tokenizer_file

if TYPE_CHECKING:
    from tokenizers import Encoding

EMPTY_HINT = 'say what to draw, for example "dog wearing sunglasses"'
PROMPT_LIMIT_CHARACTERS = 1_000_000
PROBE = "a 𒐫"  # a letter that hardly any vocabulary has: without an unknown token the library fails here
PANIC = "PanicException"  # of Rust; it cannot be imported, and is no Exception
SHOWN_PIECES = 5
SHOWN_CHARACTERS = 40


@dataclass(frozen=True, kw_only=True)
class PromptNote:
    """What became of one prompt: the pieces that the vocabulary lacks, and how many words did not fit."""

    unknown: tuple[str, ...]
    words_cut: int
    nothing_known: bool


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """`ids` and `mask` int64 (batch, tokens); mask is 0 on padding, else 1."""

    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.int64]
    notes: tuple[PromptNote, ...]


@dataclass(frozen=True, kw_only=True)
class PromptPieces:
    """The tokens of one prompt as text; of each, the number of its word (-1: special) and the word's text."""

    tokens: tuple[str, ...]
    words: tuple[int, ...]
    names: tuple[str, ...]


class Tokenizer:
    """A tokenizer.json; its own post-processor adds the special tokens."""

    def __init__(self, data: bytes, spec: TextSpec) -> None:
        """`data` is the text of tokenizer.json; raises IntegrityError when it is not a tokenizer."""
        import tokenizers

        check_tokenizer_file(data, spec.tokenizer)
        with _library_errors(spec.tokenizer):
            self._tokenizer = tokenizers.Tokenizer.from_buffer(data)
            self._tokenizer.no_padding()
            self._check_length(spec)
            self._tokenizer.enable_truncation(max_length=spec.max_tokens)
            self._tokenizer.encode(PROBE)
        for number in (spec.pad_id, spec.unknown_id):
            if number is not None and self._tokenizer.id_to_token(number) is None:
                raise IntegrityError(f"{spec.tokenizer}: it has no token {number}", "export the bundle again")
        self._tokenizer.encode_special_tokens = True  # "[PAD]" in a prompt is text
        self._spec = spec

    @property
    def largest_id(self) -> int:
        """The largest id that a prompt can have."""
        return max(*self._tokenizer.get_vocab(with_added_tokens=True).values(), self._spec.pad_id)

    def _check_length(self, spec: TextSpec) -> None:
        marks = self._tokenizer.num_special_tokens_to_add(False)
        if marks >= spec.max_tokens:  # the library panics
            problem = f"{spec.tokenizer}: adds {marks} tokens to a prompt of at most {spec.max_tokens}"
            raise IntegrityError(problem, "export the bundle again")

    def encode(self, prompts: Sequence[str]) -> Tokens:
        """Token ids of the prompts; warns with PromptWarning of words unknown or cut.

        Padded to the longest of them, or to `max_tokens` where the spec says that the length is fixed.
        Raises UsageError when there is no prompt or one has no text.
        """
        (tokens,) = self.encode_batches(prompts, max(1, len(prompts)))
        for prompt, note in zip(prompts, tokens.notes, strict=True):
            for text in warnings_of_note(prompt, note, self._spec.max_tokens):
                warnings.warn(text, PromptWarning, stacklevel=2)
        return tokens

    def encode_batches(self, prompts: Sequence[str], size: int) -> list[Tokens]:
        """Token ids of each `size` prompts, every batch padded by itself; nothing is warned of.

        Raises UsageError when there is no prompt or one has no text.
        """
        if not prompts:
            raise UsageError("no prompt", EMPTY_HINT)
        read = [self._read(prompt) for prompt in prompts]
        return [self._padded(read[start : start + size]) for start in range(0, len(read), size)]

    def pieces(self, prompt: str) -> PromptPieces:
        """The tokens that `encode` gives the ids of; UsageError when the prompt has no text."""
        prompt, encoding = self._encode_one(prompt)
        dropped = self._spec.unknown_id if self._spec.drop_unknown else None
        kept = [place for place, number in enumerate(encoding.ids) if number != dropped]
        numbers = [-1 if number is None else number for number in encoding.word_ids]
        names = [_word_of(prompt, encoding, numbers[place]) for place in kept]
        return PromptPieces(
            tokens=tuple(encoding.tokens[place] for place in kept),
            words=tuple(numbers[place] for place in kept),
            names=tuple(names),
        )

    def _padded(self, read: Sequence[tuple[list[int], PromptNote]]) -> Tokens:
        longest = max(len(ids) for ids, _ in read)
        length = self._spec.max_tokens if self._spec.fixed_length else longest
        ids = np.full((len(read), length), self._spec.pad_id, np.int64)
        mask = np.zeros((len(read), length), np.int64)
        for row, (found, _) in enumerate(read):
            ids[row, : len(found)] = found
            mask[row, : len(found)] = 1
        return Tokens(ids=ids, mask=mask, notes=tuple(note for _, note in read))

    def _read(self, prompt: str) -> tuple[list[int], PromptNote]:
        plain, encoding = self._encode_one(prompt)
        note = self._note(plain, encoding)
        if not self._spec.drop_unknown:
            return encoding.ids, note
        if note.nothing_known:
            problem = f"the prompt {_short(prompt)} has no word that the model knows"
            raise UsageError(problem, "use words of the captions that it was trained on")
        return [number for number in encoding.ids if number != self._spec.unknown_id], note

    def _encode_one(self, prompt: str) -> tuple[str, Encoding]:
        """The prompt's plain text, and its tokens."""
        check_length(prompt)
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(f"the prompt {_short(prompt)} is not valid text", "pass it as UTF-8") from None
        with _library_errors(self._spec.tokenizer):
            plain = plain_prompt(prompt, lambda text: self._tokenizer.token_to_id(text) is not None)
            encoding = self._tokenizer.encode(plain)
        if not plain.strip() or all(encoding.special_tokens_mask):
            raise UsageError(f"the prompt {_short(prompt)} is empty", EMPTY_HINT)
        return plain, encoding

    def _note(self, prompt: str, encoding: Encoding) -> PromptNote:
        own = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
        unknown = [place for place in own if encoding.ids[place] == self._spec.unknown_id]
        end = max(encoding.offsets[place][1] for place in own)
        cut = len(prompt[end:].split()) if encoding.overflowing else 0
        pieces = dict.fromkeys(prompt[slice(*encoding.offsets[place])] for place in unknown)
        return PromptNote(unknown=tuple(pieces), words_cut=cut, nothing_known=len(unknown) == len(own))


def check_length(prompt: str) -> None:
    """Raise UsageError for a prompt that is too long to be read."""
    if len(prompt) > PROMPT_LIMIT_CHARACTERS:
        problem = f"a prompt of {len(prompt)} characters; at most {PROMPT_LIMIT_CHARACTERS} are read"
        raise UsageError(problem, "shorten it: the model reads a few dozen words")


@contextlib.contextmanager
def _library_errors(name: str) -> Iterator[None]:
    """Whatever the tokenizers library raises, panics of its Rust code included, as IntegrityError."""
    try:
        yield
    except TextualVisionError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise  # an interrupt
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise IntegrityError(f"{name}: {shortened(problem)}", "export the bundle again") from None


def warnings_of_note(prompt: str, note: PromptNote, max_tokens: int) -> list[str]:
    """What to warn of: the unknown words of a prompt, and that it was cut."""
    found = []
    if note.unknown:
        shown = ", ".join(_short(piece) for piece in note.unknown[:SHOWN_PIECES])
        more = len(note.unknown) - SHOWN_PIECES
        text = f"prompt {_short(prompt)}: not in the vocabulary: {shown}" + (
            f" and {more} more" if more > 0 else ""
        )
        if note.nothing_known:
            text += "; nothing in it is known, so expect an arbitrary picture"
        found.append(text)
    if note.words_cut:
        words = "1 word was" if note.words_cut == 1 else f"{note.words_cut} words were"
        found.append(f"prompt {_short(prompt)}: longer than {max_tokens} tokens, the last {words} cut")
    return found


def _word_of(prompt: str, encoding: Encoding, number: int) -> str:
    """The text of a word of the prompt, by its number; empty for special tokens."""
    places = [place for place, word in enumerate(encoding.word_ids) if word == number]
    offsets = [encoding.offsets[place] for place in places]
    return prompt[min(start for start, _ in offsets) : max(end for _, end in offsets)] if offsets else ""


def _short(text: str) -> str:
    """`text` in quotes on one line, shortened, with what a terminal could trip over escaped."""
    quoted = repr(text[:SHOWN_CHARACTERS])
    return quoted if len(text) <= SHOWN_CHARACTERS else quoted[:-1] + "…" + quoted[-1]
