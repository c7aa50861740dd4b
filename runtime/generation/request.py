"""A request: prompts, seeds, and the encoded text in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from textual_vision.runtime.generation.text import Tensors
from textual_vision.runtime.text.tokenizer import PromptNote


@dataclass(frozen=True, kw_only=True)
class Request:
    """One seed for each picture; one prompt for each, or one for all.

    `parts` are batches of encoded prompts, each made when it is reached.
    """

    prompts: tuple[str, ...]
    notes: tuple[PromptNote, ...]
    seeds: tuple[int, ...]
    parts: Iterator[Tensors]

    def rows_of_parts(self) -> Iterator[tuple[Tensors, list[int]]]:
        """Each batch of encoded prompts, with the row that each of its pictures is generated from."""
        for tensors in self.parts:
            if len(self.prompts) == 1:
                yield tensors, [0] * len(self.seeds)
            else:
                yield tensors, list(range(len(next(iter(tensors.values())))))

    def prompt_of(self, picture: int) -> tuple[str, PromptNote]:
        """A picture's prompt, and the note on it."""
        place = picture if len(self.prompts) > 1 else 0
        return self.prompts[place], self.notes[place]
