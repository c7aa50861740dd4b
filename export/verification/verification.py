"""The result of a verification, as data and as JSON."""

from __future__ import annotations

import base64
import dataclasses
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textual_vision.export.host.versions import versions
from textual_vision.export.parity.agreement import (
    AgreementMatrix,
    PictureSet,
    device_name,
    json_from_matrix,
)
from textual_vision.export.parity.tolerance import TOLERANCES
from textual_vision.export.results import FAIL, PASS
from textual_vision.export.verification.checks import Check, first_failure
from textual_vision.export.verification.comparison import LIMITS
from textual_vision.export.verification.prompts import Sample
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.images.png import png_from_image

SCHEMA_VERSION = 1
AGREEMENT_PICTURES = 8


@dataclass(kw_only=True)
class Verification:
    """A verification so far: its checks, notes on what stays unvisited, and the pictures of every backend.

    `pictures` are the results of whole pictures by "precision/backend/device", in the order of `samples`.
    """

    bundle: str
    level: str
    checkpoint: str | None = None
    name: str = ""
    digest: str = ""
    device: str = field(default_factory=device_name)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: tuple[Sample, ...] = ()
    decibels: dict[str, list[float | None]] = field(default_factory=dict)
    sets: dict[str, PictureSet] = field(default_factory=dict)
    matrix: AgreementMatrix | None = None
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def failure(self) -> Check | None:
        """The failed check that comes first in the running order; None when all pass."""
        return first_failure(self.checks)

    @property
    def verdict(self) -> str:
        """PASS when there are checks and all pass."""
        return PASS if self.checks and self.failure is None else FAIL


def json_from_verification(
    found: Verification, *, exit_code: int, error: str = "", hint: str = ""
) -> dict[str, object]:
    """Return everything as plain JSON; `error` and `hint` are the lines that the command prints."""
    return {
        "schema_version": SCHEMA_VERSION,
        "bundle": found.bundle,
        "name": found.name,
        "checkpoint": found.checkpoint,
        "checkpoint_digest": found.digest,
        "level": found.level,
        "device": found.device,
        "verdict": PASS if exit_code == 0 and found.verdict == PASS else FAIL,
        "exit_code": exit_code,
        "error": error,
        "hint": hint,
        "checks": [check.to_json() for check in found.checks],
        "notes": found.notes,
        "samples": [dataclasses.asdict(one) for one in found.samples],
        "decibels": found.decibels,
        "agreement": None if found.matrix is None else json_from_matrix(found.matrix),
        "pictures": {name: _set_json(one) for name, one in found.sets.items()},
        "tolerances": {name: dataclasses.asdict(one) for name, one in TOLERANCES.items()},
        "limits": {name: _limits_json(name) for name in LIMITS},
        "versions": {**versions(), "python": platform.python_version()},
        "timings_s": {name: round(seconds, 2) for name, seconds in found.timings.items()},
    }


def sets_from_json(value: Mapping[str, Any], file: str) -> dict[str, PictureSet]:
    """Return the pictures that `json_from_verification` wrote; raises UsageError when there are none."""
    import io

    from PIL import Image

    found: dict[str, PictureSet] = {}
    try:
        for name, one in value["pictures"].items():
            images = []
            for text in one["png"]:
                with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as picture:
                    array = np.asarray(picture)
                    images.append(array if array.ndim == 3 else array[..., None])
            codes = None if one["codes"] is None else np.array(one["codes"], np.int64)
            found[str(name)] = PictureSet(images=np.stack(images), codes=codes)
    except (KeyError, TypeError, ValueError, OSError) as error:
        hint = "give a file that `tv-export verify --json` wrote"
        raise UsageError(f"{file}: no pictures of a verification ({error!r})", hint) from None
    return found


def check_same_samples(ours: Sequence[Sample], theirs: Any, file: str) -> None:
    """Raise UsageError unless another verification compared the same prompts and seeds first."""
    wanted = [(one.text, one.seed) for one in ours[:AGREEMENT_PICTURES]]
    rows = theirs if isinstance(theirs, list) else []
    found = [(one.get("text"), one.get("seed")) for one in rows[:AGREEMENT_PICTURES] if isinstance(one, dict)]
    if wanted != found:
        raise UsageError(
            f"{file}: it has other prompts or seeds than this verification",
            "use the same --level, --samples, --seed and --prompts on both devices",
        )


def _limits_json(name: str) -> dict[str, object]:
    limits = LIMITS[name]
    names = [one.name for one in dataclasses.fields(limits) if one.name != "tolerance"]
    return {key: getattr(limits, key) for key in names}


def _set_json(one: PictureSet) -> dict[str, object]:
    png = [base64.b64encode(png_from_image(image)).decode() for image in one.images]
    return {"png": png, "codes": None if one.codes is None else np.asarray(one.codes).tolist()}
