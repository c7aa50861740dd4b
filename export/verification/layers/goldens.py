"""Golden pictures, judged by our own limits: a bundle's budgets may be stricter, but not laxer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from textual_vision.export.parity.tolerance import GOLDEN_SLACK_DB, golden_limits
from textual_vision.export.verification.checks import BACKEND, EDITED, EXACT, GOLDENS, NOISE, Check, check_of
from textual_vision.export.verification.comparison import decibels_in_words
from textual_vision.export.verification.subject import Subject
from textual_vision.runtime.backends.session import Session
from textual_vision.runtime.errors import TextualVisionError
from textual_vision.runtime.generation.conditions import ConditionReader
from textual_vision.runtime.generation.consistency import CODES, IMAGE
from textual_vision.runtime.golden import (
    Golden,
    GoldenPicture,
    golden_of_bundle,
    image_psnr_db,
    noise_bits,
    picture_of,
)
from textual_vision.runtime.manifest import StageSpec

if TYPE_CHECKING:
    from textual_vision.export.model.batch import ReferenceBatch

EPSILON = 1e-9  # of budgets that were written as text


@dataclass(frozen=True, kw_only=True)
class GoldenOutcome:
    """One golden picture as generated here; `code_agreement` None without codes."""

    prompt: str
    seed: int
    psnr_db: float
    code_agreement: float | None


def golden_checks(subject: Subject, reference: Sequence[ReferenceBatch]) -> Iterator[Check]:
    """Yield the checks that need no session: the budgets, the noise, and with `reference` the pictures.

    `reference` are the golden prompts and seeds by PyTorch. Raises UsageError for a bundle without goldens.
    """
    golden = golden_of_bundle(subject.bundle)
    yield _budgets(subject, golden)
    wrong = [
        one.seed for one in golden.pictures if one.noise_bits != noise_bits(one.seed, subject.manifest.noise)
    ]
    problems = [f"the noise of {len(wrong)} seeds differs, first {wrong[0]}"] if wrong else []
    yield check_of(
        "golden/noise",
        EXACT,
        GOLDENS,
        problems,
        passed=f"{len(golden.pictures)} seeds have equal noise",
        tolerance="the first values' bits equal",
        cause=NOISE,
    )
    if reference:
        yield _against_reference(subject, golden, reference)


def golden_check(subject: Subject, precision: str, backend: str, sessions: Mapping[str, Session]) -> Check:
    """Return the check of a precision's golden pictures on a backend.

    Pictures whose codes are equal need our tolerance without slack for other codes.
    """
    golden = golden_of_bundle(subject.bundle)
    limits, own = golden_limits(precision), golden.budgets.get(precision)
    codes = max(limits["code_agreement"], own.code_agreement if own is not None else 0.0)
    least = max(limits["psnr_db"], own.psnr_db if own is not None else 0.0)
    problems: list[str] = []
    worst = np.inf
    cause = BACKEND
    try:
        for expected in golden.pictures:
            found = _drawn(subject, sessions, expected)
            worst = min(worst, found.psnr_db)
            slack = 0.0 if found.code_agreement not in (None, 1.0) else GOLDEN_SLACK_DB / 2
            wanted = least + slack
            if (found.code_agreement or 1.0) < codes or found.psnr_db < wanted:
                agreement = (
                    "" if found.code_agreement is None else f", {100 * found.code_agreement:.1f} % codes"
                )
                problems.append(f"{expected.prompt[:40]!r}: {found.psnr_db:.1f} dB{agreement}")
    except TextualVisionError as error:
        problems.append(error.message)
    return check_of(
        f"{precision}/golden/{backend}",
        EXACT,
        GOLDENS,
        problems,
        passed=f"{len(golden.pictures)} pictures, worst {decibels_in_words(float(worst))}",
        tolerance=f"{least + GOLDEN_SLACK_DB / 2:g} dB with equal codes, else {least:g} dB and "
        f"{100 * codes:g} % of codes",
        cause=cause,
    )


def _budgets(subject: Subject, golden: Golden) -> Check:
    problems = []
    for precision in subject.manifest.precisions:
        own, limits = golden.budgets.get(precision), golden_limits(precision)
        if own is None:
            problems.append(f"{precision} has no budget")
        elif (
            own.code_agreement < limits["code_agreement"] - EPSILON
            or own.psnr_db < limits["psnr_db"] - EPSILON
        ):
            problems.append(
                f"{precision} allows {own.psnr_db:g} dB and {100 * own.code_agreement:g} % of codes"
            )
    shown = ", ".join(f"{name} {golden_limits(name)['psnr_db']:g} dB" for name in subject.manifest.precisions)
    return check_of(
        "golden/budgets",
        EXACT,
        GOLDENS,
        problems,
        passed="none is laxer",
        tolerance=f"at least {shown}",
        cause=EDITED,
    )


def _against_reference(subject: Subject, golden: Golden, reference: Sequence[ReferenceBatch]) -> Check:
    """The golden pictures against PyTorch's, which may differ by rounding and near ties alone."""
    images = np.concatenate([batch.tensors[IMAGE] for batch in reference])
    limit = golden_limits("fp32")["psnr_db"]
    problems = [
        f"{one.prompt[:40]!r} differs from PyTorch's: {decibels:.1f} dB"
        for one, image in zip(golden.pictures, images, strict=True)
        if (decibels := image_psnr_db(picture_of(subject.bundle, one.picture), image.astype(np.uint8)))
        < limit
    ]
    return check_of(
        "golden/pictures",
        EXACT,
        GOLDENS,
        problems,
        passed=f"{len(golden.pictures)} pictures are PyTorch's",
        tolerance=f"{limit:g} dB",
        cause=EDITED,
    )


def _drawn(subject: Subject, sessions: Mapping[str, Session], expected: GoldenPicture) -> GoldenOutcome:
    condition = ConditionReader(subject.bundle).read([expected.prompt])
    tensors = {**condition.tensors, **subject.program.start_tensors([expected.seed])}

    def run(stage: StageSpec, known: Mapping[str, np.ndarray], step: int) -> Mapping[str, np.ndarray]:
        return sessions[stage.name].run({spec.name: known[spec.name] for spec in stage.inputs})

    found = subject.program.run(tensors, run, [expected.seed])
    picture = picture_of(subject.bundle, expected.picture)
    codes = found.get(CODES)
    return GoldenOutcome(
        prompt=expected.prompt,
        seed=expected.seed,
        psnr_db=image_psnr_db(picture, found[IMAGE][0].astype(np.uint8)),
        code_agreement=None if codes is None else float(np.mean(np.array(expected.codes) == codes[0])),
    )
