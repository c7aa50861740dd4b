"""Compare every stage on the reference's inputs, in several batch sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from textual_vision.export.host.parallel import parallel_map
from textual_vision.export.model.batch import Array, ReferenceBatch, batches_of_stage
from textual_vision.export.parity.verdict import forced_parity
from textual_vision.export.results import FAIL
from textual_vision.export.verification.checks import (
    BACKEND,
    BATCH,
    CONVERSION,
    FIRST_STAGE,
    STAGES,
    WEIGHTS,
    Check,
    Evidence,
    check_of,
)
from textual_vision.export.verification.comparison import LIMITS, Limits, compare_samples
from textual_vision.runtime.backends.session import Session
from textual_vision.runtime.errors import TextualVisionError
from textual_vision.runtime.generation.consistency import IMAGE
from textual_vision.runtime.manifest import StageSpec
from textual_vision.runtime.metrics import psnr_db

# Problems of a stage's batches and outputs, in words.
MoreProblems = Callable[[Sequence[ReferenceBatch], Sequence[Mapping[str, Array]]], list[str]]

# How much worse than the build's own measurement pictures may be: other prompts and processors.
RECORDED_ROOM_DB, MAX_RECORDED_DB, MIN_RECORDED = 3.0, 55.0, 8
MAX_RUNS = 64  # of a stage in a loop, spread over its steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSubject:
    """One stage of a precision on a backend; `arithmetic` names its limits, `place` is its running order."""

    stage: StageSpec
    precision: str
    backend: str
    session: Session
    arithmetic: str
    place: int

    @property
    def limits(self) -> Limits:
        """The limits of the stage's arithmetic."""
        return LIMITS[self.arithmetic]

    def id(self, *parts: str) -> str:
        """Return the id of a check of this stage."""
        return "/".join((self.precision, self.stage.name, *parts))


class RecordingSession:
    """A `Session` that keeps the outputs of its runs by the identity of their inputs, which must live on."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.inputs, self.outputs, self.largest_batch = session.inputs, session.outputs, session.largest_batch
        self._kept: dict[tuple[int, ...], dict[str, Array]] = {}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name; the second run of the same arrays returns those of the first."""
        key = tuple(id(inputs[name]) for name in sorted(inputs))
        if key not in self._kept:
            self._kept[key] = self._session.run(inputs)
        return self._kept[key]


def forced_checks(
    subject: StageSubject,
    by_size: Mapping[int, Sequence[ReferenceBatch]],
    *,
    stored_wrong: bool,
    more: MoreProblems | None = None,
) -> Iterator[Check]:
    """Yield a check for each batch size; `by_size` are the reference's batches, small sizes first.

    With `stored_wrong`, a failed comparison of stored weights names the likely cause.
    """
    for size, batches in by_size.items():
        if subject.session.largest_batch is not None and size > subject.session.largest_batch:
            continue
        parts = ("forced", subject.backend, f"batch{size}")
        check = forced_check(
            subject, batches, parts, cause=WEIGHTS if stored_wrong else CONVERSION, more=more
        )
        if check.failed and size > 1 and not stored_wrong and _passes_alone(subject, batches):
            check = dataclasses.replace(check, cause=BATCH)
        yield check


def _passes_alone(subject: StageSubject, batches: Sequence[ReferenceBatch]) -> bool:
    """Whether the same samples pass one by one, so that only their batch makes them differ."""
    found = thinned(batches_of_stage(batches, subject.stage))
    rows = [row_of(batch, row) for batch in found for row in range(len(batch.prompts))]
    return not forced_check(subject, rows, ("alone",), cause=BATCH).failed


def row_of(batch: ReferenceBatch, row: int) -> ReferenceBatch:
    """Return one sample of a batch, with its padding."""
    one = slice(row, row + 1)
    return dataclasses.replace(
        batch,
        prompts=batch.prompts[one],
        seeds=batch.seeds[one],
        tensors={name: value[one] for name, value in batch.tensors.items()},
        margins={name: value[one] for name, value in batch.margins.items()},
        steps={},
    )


def forced_check(
    subject: StageSubject,
    batches: Sequence[ReferenceBatch],
    parts: Sequence[str],
    *,
    cause: str,
    layer: str = STAGES,
    more: MoreProblems | None = None,
    late: bool = False,
) -> Check:
    """Return the check of a stage on the inputs in `batches`; `more` finds problems that only it knows.

    A `late` check comes after the stage's others in the running order.
    """
    limits, stage = subject.limits, subject.stage
    found = thinned(batches_of_stage(batches, stage))
    session = RecordingSession(subject.session)
    inputs = [{spec.name: batch.tensors[spec.name] for spec in stage.inputs} for batch in found]
    place, id_ = FIRST_STAGE + subject.place + late, subject.id(*parts)
    try:
        outputs = list(parallel_map(session.run, inputs))
        _check_shapes(stage, found, outputs)
    except TextualVisionError as error:
        return check_of(
            id_, layer, place, [error.message], passed="", tolerance="the stage runs", cause=BACKEND
        )
    flat = [dataclasses.replace(batch, steps={}) for batch in found]
    parity = forced_parity(stage, session, flat, tolerance=limits.tolerance, backend=subject.backend)
    single = compare_samples(stage, found, outputs, limits)
    problems = [parity.reason] if parity.verdict == FAIL else []
    problems += single.problems
    problems += [] if more is None else more(found, outputs)
    evidence = evidence_of(stage, found, outputs, single.worst) if problems else None
    return check_of(
        id_,
        layer,
        place,
        problems,
        passed=single.figure,
        tolerance=tolerance_in_words(stage, limits),
        cause=cause,
        evidence=evidence,
    )


def recorded_problems(subject: StageSubject, recorded: float | None) -> MoreProblems:
    """Return a function that finds pictures far worse than the PSNR which the build recorded, in dB."""

    def find(batches: Sequence[ReferenceBatch], outputs: Sequence[Mapping[str, Array]]) -> list[str]:
        if recorded is None or sum(len(batch.prompts) for batch in batches) < MIN_RECORDED:
            return []
        squares = [
            (batch.tensors[name].astype(np.float64) - output[name].astype(np.float64)) ** 2
            for batch, output in zip(batches, outputs, strict=True)
            for name in (IMAGE,)
        ]
        decibels = psnr_db(float(np.concatenate(squares).mean()))
        if decibels >= min(recorded, MAX_RECORDED_DB) - RECORDED_ROOM_DB:
            return []
        return [f"{IMAGE}: {decibels:.1f} dB, the build measured {recorded:.1f} dB"]

    return find if any(spec.name == IMAGE for spec in subject.stage.outputs) else lambda *_: []


def thinned(batches: Sequence[ReferenceBatch]) -> list[ReferenceBatch]:
    """Return at most MAX_RUNS of the batches, spread over all of them."""
    if len(batches) <= MAX_RUNS:
        return list(batches)
    return [batches[index] for index in np.linspace(0, len(batches) - 1, MAX_RUNS).astype(int)]


def tolerance_in_words(stage: StageSpec, limits: Limits) -> str:
    """Return the limits that apply to a stage's outputs, in words."""
    tolerance, parts = limits.tolerance, []
    dtypes = {spec.dtype for spec in stage.outputs}
    if dtypes & {"int64", "int32"}:
        ties = " except near ties" if tolerance.near_ties else ""
        parts.append(f"{100 * tolerance.codes:g} % of codes equal{ties}")
    if "uint8" in dtypes:
        parts.append(f"{tolerance.picture_db:g} dB, every picture {limits.floor_db:g} dB")
    if any(dtype.startswith("float") for dtype in dtypes):
        parts.append(f"cosine {tolerance.cosine:g}, relative error {limits.relative_error:g}")
    return "; ".join(parts)


def evidence_of(
    stage: StageSpec,
    batches: Sequence[ReferenceBatch],
    outputs: Sequence[Mapping[str, Array]],
    worst: tuple[int, int] | None,
) -> Evidence:
    """Return the inputs and outputs of the worst sample, or of the first batch that differs."""
    if worst is None:
        differs = (
            any(not np.array_equal(batch.tensors[one.name], out[one.name]) for one in stage.outputs)
            for batch, out in zip(batches, outputs, strict=True)
        )
        number, rows = next((index for index, one in enumerate(differs) if one), 0), slice(None)
    else:
        number, rows = worst[0], slice(worst[1], worst[1] + 1)
    batch, output = batches[number], outputs[number]
    return Evidence(
        inputs={spec.name: batch.tensors[spec.name][rows] for spec in stage.inputs},
        expected={spec.name: batch.tensors[spec.name][rows] for spec in stage.outputs},
        found={spec.name: output[spec.name][rows] for spec in stage.outputs},
    )


def _check_shapes(
    stage: StageSpec, batches: Sequence[ReferenceBatch], outputs: Sequence[Mapping[str, Array]]
) -> None:
    for batch, output in zip(batches, outputs, strict=True):
        for spec in stage.outputs:
            expected, found = batch.tensors[spec.name], output[spec.name]
            if expected.shape != found.shape or found.dtype.name != spec.dtype:
                problem = f"{spec.name} is {found.dtype} {found.shape}, not {spec.dtype} {expected.shape}"
                raise TextualVisionError(problem)
