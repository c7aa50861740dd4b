"""Tensors of a request into pictures to generate, and pictures into tensors of the response."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from textual_vision.runtime.backends.session import Array
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.arguments import seed_from
from textual_vision.runtime.generation.results import GeneratedImage
from textual_vision.runtime.text.tokenizer import warnings_of_note
from textual_vision.runtime.triton.spec import CODES, COUNT, IMAGE, PROMPT, SEED, WARNINGS

Parameters = tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture to generate; `prompt` is "" for a model that takes none."""

    prompt: str
    seed: int
    parameters: Parameters


def pictures_from_tensors(tensors: Mapping[str, Array], largest_count: int) -> list[Picture]:
    """The pictures of a request, `count` for each of its rows, with seeds that rise by one.

    `tensors` are (rows, 1): `seed` uint64; where the model takes them `prompt` bytes and numbers float32;
    `count` int32, 1 where it is missing. Raises UsageError for a prompt that is not UTF-8, a count that is
    not between 1 and `largest_count`, and seeds beyond 64 bits.
    """
    seeds = [int(seed) for seed in tensors[SEED].ravel()]
    rows = len(seeds)
    prompts = [_text_of(one) for one in tensors[PROMPT].ravel()] if PROMPT in tensors else [""] * rows
    counts = [int(one) for one in tensors[COUNT].ravel()] if COUNT in tensors else [1] * rows
    numbers = {
        name: [float(one) for one in tensor.ravel()]
        for name, tensor in tensors.items()
        if name not in (PROMPT, SEED, COUNT)
    }
    sizes = {len(prompts), len(counts), *(len(column) for column in numbers.values())}
    if not rows or sizes != {rows}:
        problem = f"{rows} seeds, and {sorted(sizes)} rows of the other inputs"
        raise UsageError(problem, "give every input as many rows")
    found = []
    for row in range(rows):
        if not 1 <= counts[row] <= largest_count:
            problem = f"a count of {counts[row]} pictures"
            raise UsageError(problem, f"choose 1 to {largest_count}")
        parameters = tuple((name, column[row]) for name, column in numbers.items())
        for place in range(counts[row]):
            seed = seed_from(seeds[row] + place)
            found.append(Picture(prompt=prompts[row], seed=seed, parameters=parameters))
    return found


def _text_of(value: object) -> str:
    try:
        return bytes(value).decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise UsageError(f"the prompt is not UTF-8: byte {error.start}", "encode it as UTF-8") from None


def groups_by_parameters(pictures: Iterable[Picture]) -> dict[Parameters, list[int]]:
    """The places of the pictures that share their numbers, such as a guidance scale."""
    groups: dict[Parameters, list[int]] = {}
    for place, picture in enumerate(pictures):
        groups.setdefault(picture.parameters, []).append(place)
    return groups


def tensors_from_images(images: Sequence[GeneratedImage], max_tokens: int | None) -> dict[str, Array]:
    """`image` uint8 (pictures, height, width, channels), `codes` int64 where the model has some.

    For a model that takes text also `warnings`, bytes (pictures, 1): what of a prompt is unknown or was cut,
    empty where nothing is.
    """
    tensors: dict[str, Array] = {IMAGE: np.stack([one.image for one in images])}
    codes = [one.codes for one in images if one.codes is not None]
    if codes:
        tensors[CODES] = np.stack(codes)
    if max_tokens is not None:
        texts = ["; ".join(warnings_of_note(one.prompt, one.note, max_tokens)) for one in images]
        tensors[WARNINGS] = np.array([[text.encode("utf-8")] for text in texts], np.object_)
    return tensors
