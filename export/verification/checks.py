"""A check of a verification: its id, verdict, figure, tolerance and likely cause."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from textual_vision.export.model.batch import Array
from textual_vision.export.results import FAIL, PASS

EXACT, TABLES, STAGES, WHOLE = "exact", "tables", "stages", "whole"
LAYERS = (EXACT, TABLES, STAGES, WHOLE)

# Likely causes.
TOKENIZER, NOISE, WEIGHTS, BATCH, BACKEND = "tokenizer", "noise", "weights", "batch", "backend"
CONVERSION, OVERFLOW, MERGING, EDITED = "conversion", "overflow", "merging", "edited bundle"

# Places in the running order, for the error line. Stage k has the place FIRST_STAGE + STAGE_STEP · k; a check
# that fails because another one of its stage does comes right after.
FILES, SPECS, TOKENS, NOISES, PRECISIONS, FIRST_STAGE = 0, 1, 2, 3, 4, 10
STAGE_STEP = 2
PIPELINE, PICTURES, BASELINE, BUILD, GOLDENS = 10_000, 10_001, 10_002, 10_003, 10_004


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The tensors of a failed check by name, and the pictures (uint8 NHWC) where it compares pictures."""

    inputs: Mapping[str, Array] = field(default_factory=dict)
    expected: Mapping[str, Array] = field(default_factory=dict)
    found: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check. `id` is unique, such as `int8/generator/forced/openvino/batch8`.

    `figure` is the measured value and `tolerance` its limit, both in words. `place` orders checks as the
    model runs. `cause` is the likely cause of a failure.
    """

    id: str
    layer: str
    place: int
    verdict: str
    figure: str
    tolerance: str
    cause: str = ""
    evidence: Evidence | None = field(default=None, compare=False, repr=False)

    @property
    def failed(self) -> bool:
        """Whether the verdict is FAIL."""
        return self.verdict == FAIL

    def to_json(self) -> dict[str, object]:
        """Return all fields except the evidence."""
        names = [one.name for one in dataclasses.fields(self) if one.name not in ("evidence", "place")]
        return {name: getattr(self, name) for name in names}

    def sentence(self) -> str:
        """Return the id, figure, tolerance and likely cause in one line."""
        cause = f"; likely cause: {self.cause}" if self.cause else ""
        return f"{self.id}: {self.figure}; required: {self.tolerance}{cause}"


def check_of(
    id_: str,
    layer: str,
    place: int,
    problems: Sequence[str],
    *,
    passed: str,
    tolerance: str,
    cause: str = "",
    evidence: Evidence | None = None,
) -> Check:
    """Return a check that fails when there are `problems`; `passed` is its figure when there are none."""
    return Check(
        id=id_,
        layer=layer,
        place=place,
        verdict=FAIL if problems else PASS,
        figure="; ".join(problems) if problems else passed,
        tolerance=tolerance,
        cause=cause if problems else "",
        evidence=evidence if problems else None,
    )


def first_failure(checks: Sequence[Check]) -> Check | None:
    """Return the failed check that comes first in the running order; None when all pass."""
    failed = [check for check in checks if check.failed]
    return min(failed, key=lambda one: (one.place, LAYERS.index(one.layer)), default=None)
