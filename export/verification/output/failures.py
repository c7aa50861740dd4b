"""Save the tensors of failed checks, their pictures side by side, and how to repeat them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from textual_vision.export.model.batch import PICTURE_AXES, Array
from textual_vision.export.verification.checks import Check, Evidence
from textual_vision.export.verification.verification import Verification
from textual_vision.runtime.files import write_atomic
from textual_vision.runtime.images.png import png_from_image

MAX_PICTURES = 4
GAP_PIXELS = 2
GRAY = 128
AMPLIFICATION = 4  # of the error in the third column


def save_failures(found: Verification, folder: Path, command: str) -> list[Path]:
    """Write a folder for each failed check into `folder` and return them; `command` repeats the verification.

    A folder has check.json and repeat.txt. Checks that compare tensors add inputs.npz, expected.npz,
    found.npz and pictures.png with the expected picture, the one found, and the error, amplified.
    """
    written = []
    for check in found.checks:
        if check.failed:
            place = folder / check.id.replace("/", "__")
            place.mkdir(parents=True, exist_ok=True)
            _save(check, place, command)
            written.append(place)
    return written


def pictures_side_by_side(expected: Array, found: Array) -> npt.NDArray[np.uint8]:
    """Return rows of expected picture, found picture and amplified error; from uint8 (N, H, W, C)."""
    rows = []
    for one, other in list(zip(expected, found, strict=True))[:MAX_PICTURES]:
        error = (other.astype(np.float64) - one.astype(np.float64)) * AMPLIFICATION + GRAY
        shown = (one.astype(np.uint8), other.astype(np.uint8), error.clip(0, 255).astype(np.uint8))
        gap = np.full((one.shape[0], GAP_PIXELS, one.shape[2]), GRAY, np.uint8)
        rows.append(np.concatenate([shown[0], gap, shown[1], gap, shown[2]], axis=1))
        rows.append(np.full((GAP_PIXELS, *rows[-1].shape[1:]), GRAY, np.uint8))
    return np.concatenate(rows[:-1])


def _save(check: Check, place: Path, command: str) -> None:
    text = json.dumps(check.to_json(), indent=1, ensure_ascii=False)
    write_atomic(place / "check.json", f"{text}\n".encode())
    lines = [command, "# the failed check:", f"# {check.sentence()}"]
    write_atomic(place / "repeat.txt", ("\n".join(lines) + "\n").encode())
    if check.evidence is None:
        return
    for name in ("inputs", "expected", "found"):
        tensors: Mapping[str, Array] = getattr(check.evidence, name)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **dict(tensors))  # type: ignore[arg-type]
        write_atomic(place / f"{name}.npz", buffer.getvalue())
    if (pictures := _pictures(check.evidence)) is not None:
        write_atomic(place / "pictures.png", png_from_image(pictures))


def _pictures(evidence: Evidence) -> npt.NDArray[np.uint8] | None:
    for name, expected in evidence.expected.items():
        found = evidence.found.get(name)
        is_picture = expected.dtype == np.uint8 and expected.ndim == PICTURE_AXES
        if is_picture and found is not None and found.shape == expected.shape:
            return pictures_side_by_side(expected, found)
    return None
