"""The agreement matrix: pictures of every precision, backend and device, each compared with all others."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textual_vision.export.model.batch import Array
from textual_vision.runtime.metrics import psnr_db

PYTORCH = "PyTorch"


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """The pictures of one column: `images` uint8 (N, H, W, C), `codes` integers (N, …) or None."""

    images: npt.NDArray[np.uint8]
    codes: Array | None = None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How two sets of the same prompts and seeds agree.

    `psnr_db` is over all pictures and `worst_psnr_db` of the worst one, None for identical pictures.
    `code_agreement` is the share of equal codes, None without codes. `identical` counts equal pictures.
    """

    pictures: int
    identical: int
    psnr_db: float | None
    worst_psnr_db: float | None
    code_agreement: float | None


@dataclass(frozen=True, kw_only=True)
class AgreementMatrix:
    """`cells[row][column]` for every pair of `names`, which are "precision/backend/device" or PYTORCH."""

    names: tuple[str, ...]
    cells: Mapping[str, Mapping[str, Agreement]]


def agreement_matrix(sets: Mapping[str, PictureSet]) -> AgreementMatrix:
    """Return the agreement of every two of the sets, which hold the same prompts and seeds."""
    names = tuple(sets)
    cells = {
        row: {column: agreement_of(sets[row], sets[column]) for column in names if column != row}
        for row in names
    }
    return AgreementMatrix(names=names, cells=cells)


def agreement_of(first: PictureSet, second: PictureSet) -> Agreement:
    """Return how two sets agree."""
    error = first.images.astype(np.float64) - second.images.astype(np.float64)
    squares = (error**2).reshape(len(error), -1).mean(1)
    codes = None
    if first.codes is not None and second.codes is not None:
        codes = float(np.mean(first.codes == second.codes))
    return Agreement(
        pictures=len(squares),
        identical=int((squares == 0).sum()),
        psnr_db=_finite(psnr_db(float(squares.mean()))),
        worst_psnr_db=_finite(psnr_db(float(squares.max(initial=0.0)))),
        code_agreement=codes,
    )


def device_name() -> str:
    """Return this machine's kind of processor, such as "x86_64": the device in the matrix."""
    return platform.machine() or "unknown"


def json_from_matrix(matrix: AgreementMatrix) -> dict[str, object]:
    """Return the matrix as plain JSON."""
    cells = {
        row: {column: dataclasses.asdict(cell) for column, cell in columns.items()}
        for row, columns in matrix.cells.items()
    }
    return {"names": list(matrix.names), "cells": cells}


def matrix_from_bytes(data: bytes) -> AgreementMatrix:
    """Return the matrix from the UTF-8 text of `json_from_matrix`."""
    value = json.loads(data)
    cells = {
        row: {column: Agreement(**cell) for column, cell in columns.items()}
        for row, columns in value["cells"].items()
    }
    return AgreementMatrix(names=tuple(value["names"]), cells=cells)


def cell_in_words(cell: Agreement) -> str:
    """Return a cell as text: "=" for identical pictures, else decibels, and codes unless all are equal."""
    if cell.psnr_db is None:
        return "="
    equal = cell.code_agreement
    codes = "" if equal is None or equal == 1.0 else f", {100 * equal:.2f} % codes"
    return f"{cell.psnr_db:.1f} dB{codes}"


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return each name without its device where all names have the same one."""
    devices = {name.split("/")[-1] for name in names if name != PYTORCH}
    if len(devices) != 1:
        return {name: name for name in names}
    return {name: name if name == PYTORCH else name.rpartition("/")[0] for name in names}


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value
