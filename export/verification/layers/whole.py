"""Judge whole pictures one by one: each stage runs on the outputs of the stages before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from textual_vision.export.host.parallel import parallel_map
from textual_vision.export.model.batch import STEP, Array, ReferenceBatch
from textual_vision.export.parity.tolerance import NEAR_TIE_MARGIN, NEAR_TIES
from textual_vision.export.results import MERGED
from textual_vision.export.verification.bounds import smallest_visible_share, upper_bound
from textual_vision.export.verification.checks import (
    BACKEND,
    CONVERSION,
    MERGING,
    PICTURES,
    PIPELINE,
    TOKENIZER,
    WHOLE,
    Check,
    Evidence,
    check_of,
)
from textual_vision.export.verification.comparison import LIMITS, Limits, tint_of, window_db
from textual_vision.export.verification.subject import Subject
from textual_vision.runtime.backends.session import Session
from textual_vision.runtime.errors import TextualVisionError
from textual_vision.runtime.generation.conditions import ConditionReader
from textual_vision.runtime.generation.consistency import CODES, IMAGE
from textual_vision.runtime.manifest import StageSpec
from textual_vision.runtime.metrics import psnr_db

MAX_EXCUSED = 0.05  # share of pictures that a near tie may change, but one always may
FLOOR_ROOM_DB = 6.0  # below the floor of a good picture, one picture is enough to fail

Tensors = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class PictureResult:
    """One picture against the reference's.

    `bad` is outside the tolerance; `hopeless` is below the floor. `excused` differs from a near tie on.
    """

    prompt: str
    seed: int
    psnr_db: float
    code_agreement: float | None
    bad: bool
    hopeless: bool
    excused: bool


@dataclass(frozen=True, kw_only=True)
class WholeRun:
    """The pictures of one precision and backend; `batches` are the reference, `outputs` all tensors found."""

    batches: Sequence[ReferenceBatch]
    outputs: Sequence[Tensors]


def run_free(
    subject: Subject, sessions: Mapping[str, Session], batches: Sequence[ReferenceBatch]
) -> WholeRun:
    """Return the pictures by the bundle alone: its tokenizer, its noise, its program.

    Raises TextualVisionError where the bundle refuses a prompt or a backend fails.
    """
    reader, program = ConditionReader(subject.bundle), subject.program

    def run(batch: ReferenceBatch) -> Tensors:
        condition = reader.read(batch.prompts)
        tensors = {**condition.tensors, **program.start_tensors(batch.seeds)}

        def one(stage: StageSpec, known: Tensors, step: int) -> Tensors:
            return sessions[stage.name].run({spec.name: known[spec.name] for spec in stage.inputs})

        return program.run(tensors, one, batch.seeds)

    return WholeRun(batches=batches, outputs=list(parallel_map(run, batches)))


def run_merged(subject: Subject, session: Session, batches: Sequence[ReferenceBatch]) -> WholeRun:
    """Return the pictures by pipeline.onnx."""
    reader, merged = ConditionReader(subject.bundle), subject.manifest.merged
    assert merged is not None

    def run(batch: ReferenceBatch) -> Tensors:
        condition = reader.read(batch.prompts)
        known = {**condition.tensors, **subject.program.start_tensors(batch.seeds)}
        return {**known, **session.run({spec.name: known[spec.name] for spec in merged.inputs})}

    return WholeRun(batches=batches, outputs=list(parallel_map(run, batches)))


def limits_of_run(arithmetics: Mapping[str, str], stages: Sequence[StageSpec]) -> tuple[Limits, Limits]:
    """Return the limits of the codes and of the picture: those of the least exact stage up to there."""
    order = list(LIMITS)
    worst, codes = 0, None
    for stage in stages:
        worst = max(worst, order.index(arithmetics[stage.name]))
        if any(spec.name == CODES for spec in stage.outputs):
            codes = order[worst]
    return LIMITS[codes or order[worst]], LIMITS[order[worst]]


def judge_pictures(run: WholeRun, limits: tuple[Limits, Limits]) -> list[PictureResult]:
    """Return the result of every picture."""
    return [
        _judge(batch, output, row, limits)
        for batch, output in zip(run.batches, run.outputs, strict=True)
        for row in range(len(batch.prompts))
    ]


def whole_check(
    id_: str, run: WholeRun, results: Sequence[PictureResult], limits: tuple[Limits, Limits], allowance: float
) -> Check:
    """Return the verdict over pictures: the bound of bad ones, the floor, and those changed by near ties."""
    count = len(results)
    bad = sum(one.bad for one in results)
    excused = sum(one.excused for one in results)
    bound = upper_bound(bad, count)
    worst = min(results, key=lambda one: (not one.bad, one.psnr_db))
    allowed = max(allowance, smallest_visible_share(count))
    problems = []
    if any(one.hopeless for one in results):
        problems.append(
            f"a picture of {worst.psnr_db:.1f} dB, the floor is {limits[1].floor_db - FLOOR_ROOM_DB:g} dB"
        )
    if bound > allowed:
        problems.append(f"{bad} of {count} pictures are bad, so up to {100 * bound:.1f} % of all may be")
    if excused > max(1, int(MAX_EXCUSED * count)):
        problems.append(
            f"near ties changed {excused} of {count} pictures, at most {100 * MAX_EXCUSED:g} % may be"
        )
    if problems:
        problems.append(f"worst {worst.prompt[:40]!r} seed {worst.seed}: {worst.psnr_db:.1f} dB{blame(run)}")
    shown = "identical" if np.isinf(worst.psnr_db) else f"{worst.psnr_db:.1f} dB"
    merged = id_.split("/")[1] == MERGED
    return check_of(
        id_,
        WHOLE,
        PIPELINE if merged else PICTURES,
        problems,
        passed=f"{bad} of {count} pictures bad, upper bound {100 * bound:.1f} %; worst picture {shown}",
        tolerance=f"upper bound {100 * allowed:.1f} %; a good picture has {limits[1].floor_db:g} dB",
        cause=MERGING if merged else TOKENIZER if _other_tokens(run) else CONVERSION,
        evidence=_evidence(run, results) if problems else None,
    )


def failed_run(id_: str, error: TextualVisionError) -> Check:
    """Return the check of a run that the bundle or the backend refused."""
    return check_of(id_, WHOLE, PICTURES, [error.message], passed="", tolerance="pictures", cause=BACKEND)


def blame(run: WholeRun) -> str:
    """Return the first tensor in the running order whose values differ clearly, in words."""
    for name in run.batches[0].tensors:
        for batch, output in zip(run.batches, run.outputs, strict=True):
            expected, found = batch.tensors[name], output.get(name)
            if found is None or expected.dtype.kind not in "iu" or name == IMAGE:
                continue
            if expected.shape != found.shape or np.mean(expected != found) > 0.02:
                return f"; {name!r} is the first tensor that differs"
    return ""


def _judge(batch: ReferenceBatch, output: Tensors, row: int, limits: tuple[Limits, Limits]) -> PictureResult:
    of_codes, of_picture = limits
    expected, found = batch.tensors[IMAGE][row].astype(np.uint8), output[IMAGE][row].astype(np.uint8)
    decibels = psnr_db(float(((expected.astype(np.float64) - found.astype(np.float64)) ** 2).mean()))
    agreement = None
    if CODES in batch.tensors and CODES in output:
        agreement = float(np.mean(batch.tensors[CODES][row] == output[CODES][row]))
    excused = of_codes.tolerance.near_ties > 0 and differs_from_a_near_tie(batch, output, row)
    codes_bad = agreement is not None and agreement < of_codes.tolerance.codes
    picture_bad = (
        decibels < of_picture.floor_db
        or window_db(expected, found) < of_picture.window_db - FLOOR_ROOM_DB
        or tint_of(expected, found) > of_picture.tint
    )
    bad = (codes_bad or picture_bad) and not excused
    return PictureResult(
        prompt=batch.prompts[row],
        seed=batch.seeds[row],
        psnr_db=decibels,
        code_agreement=agreement,
        bad=bad,
        hopeless=bad and decibels < of_picture.floor_db - FLOOR_ROOM_DB,
        excused=excused,
    )


def differs_from_a_near_tie(batch: ReferenceBatch, output: Tensors, row: int) -> bool:
    """Whether the first codes of a picture that differ are near ties, and few of them."""
    for name, margin in batch.margins.items():
        expected, found = batch.tensors.get(name), output.get(name)
        if name.endswith(STEP) or expected is None or found is None:
            continue
        if expected.shape != found.shape:
            return False
        differs = expected[row] != found[row]
        if not differs.any():
            continue
        ties = differs & (margin[row] < NEAR_TIE_MARGIN)
        steps = batch.margins.get(name + STEP)
        first = differs if steps is None else differs & (steps[row] == steps[row][differs].min())
        return bool(ties[first].any()) and int(ties.sum()) <= max(1, int(NEAR_TIES * differs.size))
    return False


def _other_tokens(run: WholeRun) -> bool:
    names = ("input_ids", "attention_mask")
    return any(
        not np.array_equal(batch.tensors[name], output[name])
        for batch, output in zip(run.batches, run.outputs, strict=True)
        for name in names
        if name in batch.tensors
    )


def _evidence(run: WholeRun, results: Sequence[PictureResult]) -> Evidence:
    """The worst picture, with everything that led to it."""
    order = sorted(range(len(results)), key=lambda index: (not results[index].bad, results[index].psnr_db))
    index = order[0]
    for batch, output in zip(run.batches, run.outputs, strict=True):
        if index < len(batch.prompts):
            one = slice(index, index + 1)
            made = {name for name in output if name in (IMAGE, CODES)}
            return Evidence(
                inputs={name: value[one] for name, value in batch.tensors.items() if name not in made},
                expected={name: batch.tensors[name][one] for name in made if name in batch.tensors},
                found={name: output[name][one] for name in made},
            )
        index -= len(batch.prompts)
    raise AssertionError("a result without a picture")


def coverage_in_words(
    batches: Sequence[ReferenceBatch], tables: Mapping[str, int], vocabulary: int
) -> list[str]:
    """Return what the pictures visited of tokens, positions and codebook rows, and what stays unvisited."""
    lines = []
    ids = [
        batch.tensors["input_ids"][batch.tensors["attention_mask"] == 1]
        for batch in batches
        if "input_ids" in batch.tensors
    ]
    if ids and vocabulary:
        visited = len(np.unique(np.concatenate(ids)))
        longest = max(int(batch.tensors["attention_mask"].sum(1).max()) for batch in batches)
        lines.append(f"whole pictures visit {visited} of {vocabulary} tokens and positions 1 to {longest}")
    for name, rows in tables.items():
        values = [batch.tensors[name] for batch in batches if name in batch.tensors]
        if values:
            used = len(np.unique(np.concatenate([value.ravel() for value in values])))
            lines.append(f"whole pictures visit {used} of {rows} rows of {name}")
    return lines
