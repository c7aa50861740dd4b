"""What a loaded model gives: pictures, and what it is itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.text.tokenizer import PromptNote


@dataclass(frozen=True, kw_only=True)
class GeneratedImages:
    """`images` uint8 (pictures, height, width, channels), RGB or gray.

    `codes` int64 (pictures, rows, columns), None for a model without codes. `notes` say of each picture's
    prompt which words are unknown, and how many were cut.
    """

    images: npt.NDArray[np.uint8]
    codes: npt.NDArray[np.int64] | None
    notes: tuple[PromptNote, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GeneratedImage:
    """One picture: `image` uint8 (height, width, channels), `codes` int64 (rows, columns) or None."""

    prompt: str
    seed: int
    image: npt.NDArray[np.uint8]
    codes: npt.NDArray[np.int64] | None
    note: PromptNote


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a loaded model is. Sizes are pixels, tokens and bytes.

    `providers` are what really computes, by stage; `backend_reason` says why `backend` was chosen.
    `files` are the graphs or engines that were loaded. `isolated` models work in a child process.
    """

    name: str
    digest: str
    license: str
    precision: str
    backend: str
    backend_reason: str
    providers: dict[str, tuple[str, ...]]
    isolated: bool
    height: int
    width: int
    max_tokens: int | None
    largest_batch: int
    files: dict[str, int]
