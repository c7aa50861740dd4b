"""Captioned picture files: the entries of readers, decoding, and the log of damaged ones."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.training.data.records import Pixels

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})
PICTURE_PIXELS = 178_000_000  # Pillow's limit against decompression bombs; an error here, not a warning
MAX_DAMAGED = 0.05
DAMAGE_GRACE = 20  # pictures before the share of damaged ones is checked
NAMES_REMEMBERED = 1000  # names of damaged pictures, at most
DECODED_AT_ONCE = 256

Report = Callable[[str, str], None]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One captioned picture before decoding: a file, or bytes that are already read.

    An entry without captions, or with `damage`, is counted as damaged and skipped.
    """

    key: str
    captions: tuple[str, ...]
    path: Path | None = None
    data: bytes = b""
    split: str = ""
    license: str = ""
    damage: str = ""

    def read(self) -> bytes:
        """The bytes of the file; OSError of the system."""
        return self.path.read_bytes() if self.path else self.data


def _silent(name: str, reason: str) -> None:
    """Report nothing."""


@dataclass(kw_only=True)
class DamageLog:
    """Counts of undamaged and damaged pictures, with an error when too many are damaged."""

    max_share: float = MAX_DAMAGED
    report: Report = _silent
    seen: int = 0
    damaged: int = 0
    names: list[tuple[str, str]] = field(default_factory=list)

    def good(self) -> None:
        """Count an undamaged picture."""
        self.seen += 1

    def bad(self, name: str, reason: str) -> None:
        """Count and report a damaged picture; after DAMAGE_GRACE pictures also `check`."""
        self.seen += 1
        self.damaged += 1
        if len(self.names) < NAMES_REMEMBERED:
            self.names.append((name, reason))
        self.report(name, reason)
        if self.seen >= DAMAGE_GRACE:
            self.check()

    def check(self) -> None:
        """Raise IntegrityError when more than `max_share` of all pictures so far are damaged."""
        if self.damaged > self.max_share * self.seen:
            name, reason = self.names[-1]
            raise IntegrityError(
                f"{self.damaged} of {self.seen} pictures are damaged, more than {self.max_share:.0%}; "
                f"the last: {name}: {reason}",
                "repair or remove them, or allow more with --max-damaged",
            )


def picture_from_bytes(data: bytes, size: int) -> Pixels:
    """The middle square of a picture file as uint8 (size, size, 3), area-averaged.

    EXIF orientation is applied, transparent parts are laid on white, grayscale and palettes become RGB.
    Raise ValueError for a damaged or too large picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # odd metadata does not damage pixels
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > PICTURE_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels are more than {PICTURE_PIXELS}")
                image.draft("RGB", (size, size))
                upright = _rgb_on_white(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(str(error).replace("\n", " ") or type(error).__name__) from error
    except Image.DecompressionBombWarning as error:
        raise ValueError(str(error)) from error
    square = ImageOps.fit(
        upright, (size, size), Image.Resampling.BOX if min(upright.size) >= size else Image.Resampling.BICUBIC
    )
    return np.asarray(square, np.uint8)


def _rgb_on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode.startswith("I"):  # 16-bit grayscale: Pillow would clip, not scale
        wide = np.asarray(image, np.float32) / 256
        return Image.fromarray(np.clip(wide, 0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def samples(
    entries: Iterable[Entry], size: int, damage: DamageLog, *, threads: int = 1
) -> Iterator[tuple[Entry, Pixels]]:
    """Yield every undamaged entry with its picture, in order; memory does not grow with their number.

    Raise IntegrityError when too many are damaged.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting = iter(entries)
        while chunk := list(itertools.islice(waiting, DECODED_AT_ONCE)):
            for entry, result in zip(chunk, pool.map(lambda e: _decoded(e, size), chunk), strict=True):
                if isinstance(result, str):
                    damage.bad(entry.key, result)
                else:
                    damage.good()
                    yield entry, result


def _decoded(entry: Entry, size: int) -> Pixels | str:
    """The picture, or a message about its damage."""
    if entry.damage:
        return entry.damage
    if not entry.captions:
        return "it has no caption"
    try:
        return picture_from_bytes(entry.read(), size)
    except FileNotFoundError:
        return "the file is missing"
    except (OSError, ValueError) as error:
        return str(error)


def caption_from_text(text: object) -> str:
    """One line without control characters and repeated blanks; "" when `text` has no words."""
    if not isinstance(text, str):
        return ""
    visible = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(visible.split())


def require_folder(folder: Path, what: str) -> None:
    """Raise UsageError when `folder` is not a folder."""
    if not folder.is_dir():
        raise UsageError(f"{what}: no folder at {folder}", "check the path")
