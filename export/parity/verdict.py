"""Compare graphs with PyTorch, and judge whether they generate the same pictures.

An argmin turns a difference of 1e-6 into another code. So codes are counted, and of those that differ, those
that were near ties. Each stage is compared teacher-forced (on the reference's inputs: is this stage right?)
and free-running (on the outputs of the stages before it: is the pipeline right?).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from textual_vision.export.host.parallel import parallel_map
from textual_vision.export.model.batch import Array, ReferenceBatch, batches_of_stage
from textual_vision.export.parity.metrics import metrics_of, tensor_pair
from textual_vision.export.parity.tolerance import NEAR_TIE_MARGIN, Tolerance, allowed_count, shortfall
from textual_vision.export.results import (
    FAIL,
    FREE_RUNNING,
    PASS,
    TEACHER_FORCED,
    PrecisionResult,
    StageParity,
    TensorMetrics,
)
from textual_vision.runtime.backends.session import Session
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import ParityError
from textual_vision.runtime.generation.conditions import ConditionReader
from textual_vision.runtime.generation.program import Program, program_from_manifest
from textual_vision.runtime.manifest import StageSpec, TensorSpec

Rows = list[npt.NDArray[np.bool_]]  # of each batch, which samples are judged
Outputs = Sequence[Mapping[str, Array]]  # of each batch, a stage's outputs by name


def parity_of(
    program: Program,
    sessions: Mapping[str, Session],
    batches: Sequence[ReferenceBatch],
    *,
    tolerance: Tolerance,
    backend: str,
) -> tuple[StageParity, ...]:
    """Return both comparisons of every stage; `sessions` by stage, of one precision on one backend."""
    # The free-running one first: it has a clear error where a stage's outputs do not fit the next stage.
    free = free_parity(program, sessions, batches, tolerance=tolerance, backend=backend)
    forced = [
        forced_parity(stage, sessions[stage.name], batches, tolerance=tolerance, backend=backend)
        for stage in program.stages
    ]
    return (*forced, *free)


def free_parity(
    program: Program,
    sessions: Mapping[str, Session],
    batches: Sequence[ReferenceBatch],
    *,
    tolerance: Tolerance,
    backend: str,
) -> tuple[StageParity, ...]:
    """Compare every stage on the outputs of the stages before it."""
    outputs = list(parallel_map(lambda batch: run_pipeline(program, sessions, batch), batches))
    rows, found = _all_rows(batches), []
    for stage in program.stages:
        found.append(_stage_parity(stage, batches, outputs, rows, tolerance, FREE_RUNNING, backend))
        if tolerance.near_ties:  # later stages are judged on the pictures whose codes are still equal
            rows = _rows_with_equal_codes(stage, batches, outputs, rows)
    return tuple(found)


def forced_parity(
    stage: StageSpec,
    session: Session,
    batches: Sequence[ReferenceBatch],
    *,
    tolerance: Tolerance,
    backend: str,
) -> StageParity:
    """Compare one stage on the reference's own inputs, in a loop at every step."""
    batches = batches_of_stage(batches, stage)
    inputs = [{spec.name: batch.tensors[spec.name] for spec in stage.inputs} for batch in batches]
    outputs = list(parallel_map(session.run, inputs))
    return _stage_parity(stage, batches, outputs, _all_rows(batches), tolerance, TEACHER_FORCED, backend)


def run_pipeline(
    program: Program, sessions: Mapping[str, Session], batch: ReferenceBatch
) -> dict[str, Array]:
    """Return every tensor by name, each stage run on the outputs of those before it."""
    given = {t.name for stage in program.stages for t in stage.outputs}
    tensors = {name: value for name, value in batch.tensors.items() if name not in given}

    def run(stage: StageSpec, known: Mapping[str, Array], step: int) -> Mapping[str, Array]:
        return sessions[stage.name].run({t.name: known[t.name] for t in stage.inputs})

    return program.run(tensors, run, batch.seeds)


def batch_from_graphs(
    bundle: Bundle, sessions: Mapping[str, Session], texts: Sequence[str], seeds: Sequence[int]
) -> ReferenceBatch:
    """Return the batch that a bundle's own graphs give for conditions and seeds, a reference for others."""
    program, condition = program_from_manifest(bundle.manifest), ConditionReader(bundle).read(texts)
    looped: dict[str, list[Mapping[str, Array]]] = {name: [] for name in program.looped}

    def run(stage: StageSpec, known: Mapping[str, Array], step: int) -> Mapping[str, Array]:
        inputs = {t.name: known[t.name] for t in stage.inputs}
        outputs = sessions[stage.name].run(inputs)
        if stage.name in looped:
            looped[stage.name].append({**inputs, **outputs})
        return outputs

    tensors = program.run({**condition.tensors, **program.start_tensors(seeds)}, run, seeds)
    text = bundle.manifest.text
    return ReferenceBatch(
        prompts=condition.texts,
        seeds=tuple(seeds),
        tensors=tensors,
        margins={},
        fixed_length=text is not None and text.fixed_length,
        steps={name: tuple(runs) for name, runs in looped.items()},
    )


def verdict_of(parity: Sequence[StageParity]) -> str:
    """Return PASS when every comparison passes."""
    return FAIL if any(one.verdict == FAIL for one in parity) else PASS


def parity_error(precisions: Sequence[PrecisionResult]) -> ParityError:
    """Return the error that names the first comparison that failed."""
    reasons = [
        f"{result.precision} {one.stage} ({one.mode}, {one.backend}): {one.reason}"
        for result in precisions
        for one in result.parity
        if one.verdict == FAIL
    ]
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    problem = f"the graphs do not generate what the trained model generates: {reasons[0]}{more}"
    return ParityError(problem, "nothing was written; --allow-failing writes the bundle, marked as failing")


def _stage_parity(
    stage: StageSpec,
    batches: Sequence[ReferenceBatch],
    outputs: Outputs,
    rows: Rows,
    tolerance: Tolerance,
    mode: str,
    backend: str,
) -> StageParity:
    """Return the stage's metrics over all samples, and the verdict over its eligible rows."""
    everything = _all_rows(batches)
    tensors = {spec.name: _metrics(spec, batches, outputs, everything) for spec in stage.outputs}
    reasons: list[str] = []
    excluded = 0
    if mode == TEACHER_FORCED or tolerance.free_running:
        for spec in stage.outputs:
            eligible = _eligible_rows(stage, spec, batches, outputs, rows, tolerance)
            excluded = max(excluded, sum(int((~one).sum()) for one in eligible))
            reasons += _shortfalls(spec, batches, outputs, eligible, tensors[spec.name], tolerance)
        reasons += _excess_exclusions(excluded, sum(len(one) for one in rows), tolerance)
    return StageParity(
        stage=stage.name,
        mode=mode,
        backend=backend,
        tensors=tensors,
        verdict=FAIL if reasons else PASS,
        reason="; ".join(reasons),
        excluded_pictures=excluded,
    )


def _eligible_rows(
    stage: StageSpec,
    spec: TensorSpec,
    batches: Sequence[ReferenceBatch],
    outputs: Outputs,
    rows: Rows,
    tolerance: Tolerance,
) -> Rows:
    """Return the samples that a tensor is judged on: what follows from the stage's near ties is excluded."""
    if not tolerance.near_ties or spec.dtype == "int64":
        return rows
    return _rows_with_equal_codes(stage, batches, outputs, rows)


def _metrics(
    spec: TensorSpec, batches: Sequence[ReferenceBatch], outputs: Outputs, rows: Rows
) -> TensorMetrics:
    return metrics_of(tensor_pair(spec, batches, outputs, rows), NEAR_TIE_MARGIN)


def _shortfalls(
    spec: TensorSpec,
    batches: Sequence[ReferenceBatch],
    outputs: Outputs,
    rows: Rows,
    over_all: TensorMetrics,
    tolerance: Tolerance,
) -> list[str]:
    """Return why the tensor is outside the tolerance over these samples; nothing when it is inside."""
    if not any(one.any() for one in rows):
        return []
    all_judged = all(one.all() for one in rows)
    judged = over_all if all_judged else _metrics(spec, batches, outputs, rows)
    return shortfall(spec.name, judged, tolerance)


def _excess_exclusions(excluded: int, samples: int, tolerance: Tolerance) -> list[str]:
    if excluded <= allowed_count(tolerance.max_excluded_share, samples):
        return []
    most = f"at most {100 * tolerance.max_excluded_share:g} % may"
    return [f"{excluded} of {samples} pictures follow from near ties, {most}"]


def _all_rows(batches: Sequence[ReferenceBatch]) -> Rows:
    return [np.ones(len(batch.prompts), bool) for batch in batches]


def _rows_with_equal_codes(
    stage: StageSpec, batches: Sequence[ReferenceBatch], outputs: Outputs, rows: Rows
) -> Rows:
    """Return those of the rows in which all codes of the stage equal the reference's."""
    return [
        one & _equal_codes(stage, batch, tensors)
        for one, batch, tensors in zip(rows, batches, outputs, strict=True)
    ]


def _equal_codes(
    stage: StageSpec, batch: ReferenceBatch, tensors: Mapping[str, Array]
) -> npt.NDArray[np.bool_]:
    same = np.ones(len(batch.prompts), bool)
    for spec in stage.outputs:
        if spec.dtype == "int64":
            equal = batch.tensors[spec.name] == tensors[spec.name]
            if spec.shape[1] == "tokens":  # the codes of padding do not count
                padding = batch.tensors["attention_mask"] == 0
                equal |= padding.reshape(*equal.shape[:2], *[1] * (equal.ndim - 2))
            same &= equal.reshape(len(same), -1).all(1)
    return same
