"""What a loaded model gives: pictures, and what it is itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.files import write_atomic
from textual_vision.runtime.images.png import png_from_image
from textual_vision.runtime.text.tokenizer import PromptNote

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage


@dataclass(frozen=True, kw_only=True)
class GeneratedImage:
    """One picture: `image` uint8 (height, width, channels), `codes` int64 (rows, columns) or None.

    `note` says which words of the prompt are unknown, and how many were cut. `digest` and `precision` tell
    the bundle that it comes from.
    """

    prompt: str
    seed: int
    image: npt.NDArray[np.uint8]
    codes: npt.NDArray[np.int64] | None
    note: PromptNote
    digest: str
    precision: str

    def png(self) -> bytes:
        """The picture as a PNG file; its text chunks say prompt, seed, bundle and precision."""
        about = {"prompt": self.prompt, "seed": str(self.seed)}
        return png_from_image(self.image, {**about, "bundle": self.digest, "precision": self.precision})

    def save(self, path: Path | str) -> None:
        """Write the PNG file, whole or not at all."""
        write_atomic(Path(path), self.png())

    def pil(self) -> PillowImage:
        """The picture for Pillow; UsageError where that is not installed."""
        try:
            from PIL import Image
        except ImportError:
            raise UsageError("Pillow is not installed", "pip install pillow, or use png()") from None
        return Image.fromarray(self.image[..., 0] if self.image.shape[-1] == 1 else self.image)


@dataclass(frozen=True, kw_only=True)
class GeneratedImages:
    """Several pictures: `images` uint8 (pictures, height, width, channels), RGB or gray.

    `codes` int64 (pictures, rows, columns), None for a model without codes. `pictures` are the same one by
    one, with their prompts, seeds and notes.
    """

    images: npt.NDArray[np.uint8]
    codes: npt.NDArray[np.int64] | None
    pictures: tuple[GeneratedImage, ...]

    @property
    def notes(self) -> tuple[PromptNote, ...]:
        """What was not understood of each picture's prompt."""
        return tuple(picture.note for picture in self.pictures)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a loaded model is. Sizes are pixels, tokens and bytes.

    `providers` are what really computes, by stage; `backend_reason` says why `backend` was chosen.
    `files` are the graphs or engines that were loaded. `isolated` models work in a child process.
    `memory_bytes` is the resident memory of the process that computes, None where the system does not tell.
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
    memory_bytes: int | None
