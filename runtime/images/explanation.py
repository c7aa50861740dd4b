"""An explanation as a picture: the picture itself, its codes, and each word's region."""

from __future__ import annotations

import colorsys
import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.explain import Explanation

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

TILE, GAP, LABEL = 192, 12, 30  # pixels
COLUMNS = 4
GOLDEN_RATIO = 0.618033988749895
DARKEST = 0.2  # of a picture's pixels that do not change


def png_from_explanation(explanation: Explanation) -> bytes:
    """A PNG file: the picture, its codes as colors, and for each word the picture lit where the word counts.

    Raises UsageError where Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise UsageError("Pillow is not installed", "pip install pillow") from None
    tiles = _tiles(explanation)
    rows = -(-len(tiles) // COLUMNS)
    size = (GAP + COLUMNS * (TILE + GAP), GAP + rows * (TILE + LABEL + GAP))
    sheet = Image.new("RGB", size, "white")
    drawing = ImageDraw.Draw(sheet)
    for index, (label, pixels) in enumerate(tiles):
        left = GAP + index % COLUMNS * (TILE + GAP)
        top = GAP + index // COLUMNS * (TILE + LABEL + GAP)
        sheet.paste(_enlarged(Image.fromarray(pixels)), (left, top))
        drawing.text((left, top + TILE + 4), label, fill="black", font_size=14)
    return _png(sheet)


def _tiles(explanation: Explanation) -> list[tuple[str, npt.NDArray[np.uint8]]]:
    image = np.broadcast_to(explanation.image, (*explanation.image.shape[:2], 3))
    tiles = [(f"seed {explanation.seed}", np.ascontiguousarray(image))]
    if explanation.codes is not None:
        tiles.append((f"codes, {len(np.unique(explanation.codes))} different", _colors(explanation.codes)))
    weights = _weights_of_words(explanation)
    for index, word in enumerate(explanation.words):
        weight = "" if weights is None else f" {100 * weights[index]:.0f} %"
        tiles.append((f"{word[:16]}{weight}", _lit(image, explanation.influence[index])))
    return tiles


def _weights_of_words(explanation: Explanation) -> list[float] | None:
    """The summed weights of each word's tokens, None for a model that has none."""
    if explanation.weights is None:
        return None
    numbers = sorted(set(explanation.token_words) - {-1})
    owners = np.array(explanation.token_words)
    return [float(explanation.weights[owners == number].sum()) for number in numbers]


def _lit(image: npt.NDArray[np.uint8], influence: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    largest = float(influence.max())
    light = DARKEST + (1 - DARKEST) * influence / (largest or 1.0)
    lit: npt.NDArray[np.uint8] = (image * light[..., None]).astype(np.uint8)
    return lit


def _colors(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """A color for each code, so that neighboring numbers differ."""
    table = {
        int(code): [round(255 * one) for one in colorsys.hsv_to_rgb(code * GOLDEN_RATIO % 1, 0.6, 0.9)]
        for code in np.unique(codes)
    }
    return np.array([[table[int(code)] for code in row] for row in codes], np.uint8)


def _enlarged(picture: PillowImage) -> PillowImage:
    return picture.resize((TILE, TILE), 0)  # nearest


def _png(sheet: PillowImage) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
