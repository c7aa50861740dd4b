"""Contact sheets: pictures with their captions below."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

CELL = 128  # pixels that a picture takes on the sheet
GAP = 8
LINE = 11  # pixels
LINES = 3
LETTERS = 21  # of the default font that fit below a picture


def contact_sheet(pictures: NDArray[np.uint8], captions: Sequence[str], columns: int) -> bytes:
    """Pictures uint8 (N, S, S, 3) and N captions -> a PNG with `columns` pictures in a row."""
    rows = -(-len(pictures) // columns)
    wide, high = CELL + GAP, CELL + GAP + LINES * LINE
    sheet = Image.new("RGB", (GAP + columns * wide, GAP + rows * high), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=LINE - 1)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = GAP + index % columns * wide, GAP + index // columns * high
        scale = Image.Resampling.NEAREST if CELL % picture.shape[0] == 0 else Image.Resampling.BOX
        sheet.paste(Image.fromarray(picture).resize((CELL, CELL), scale), (x, y))
        lines = textwrap.wrap(caption, LETTERS, max_lines=LINES, placeholder=" …")
        for number, line in enumerate(lines):
            pen.text((x, y + CELL + number * LINE), line, fill="black", font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
