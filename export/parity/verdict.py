"""Whether graphs draw what PyTorch draws, in the words of a quantized latent space.

An argmin turns a drift of 1e-6 into another code, so codes are counted, and of those that differ how many
were near ties. Each stage is compared teacher-forced (fed the reference's inputs: is this stage right?) and
free-running (fed what the stages before it gave: is the whole right?).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textual_vision.export.host.parallel import parallel_map
from textual_vision.export.model.batch import Array, ReferenceBatch, is_codes, words_of
from textual_vision.export.parity.metrics import metrics_of, tensor_pair
from textual_vision.export.results import (
    FAIL,
    FREE_RUNNING,
    PASS,
    TEACHER_FORCED,
    CodeMetrics,
    FloatMetrics,
    ImageMetrics,
    PrecisionResult,
    StageParity,
    TensorMetrics,
)
from textual_vision.export.sessions.opening import open_in_parallel
from textual_vision.runtime.backends.session import Session
from textual_vision.runtime.errors import ParityError
from textual_vision.runtime.manifest import StageSpec

NEAR_TIE_MARGIN = 1e-4


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a precision may be from the reference.

    `codes` is the least share of equal codes. `near_ties` is the largest share of codes that may differ and
    still count as equal because they lost by less than NEAR_TIE_MARGIN (one code always may where it is not
    0); what follows from them is not held against later stages, but at most the share `max_excluded_share` of
    pictures is passed over so. `picture_db` is the least PSNR of pictures, `cosine` the least of float
    tensors. `free_running` tells whether the whole is judged too, or only each stage by itself.
    """

    codes: float
    near_ties: float
    max_excluded_share: float
    picture_db: float
    cosine: float
    free_running: bool


# Rounding in another order moves distances by some 1e-6: about 2 in 10,000 codes of a trained model are so
# near a tie. More flips than NEAR_TIES are an error of the graph, however near each of them was.
NEAR_TIES, MAX_EXCLUDED_SHARE = 0.005, 0.5

TOLERANCES = {
    "fp32": Tolerance(
        codes=1.0,
        near_ties=NEAR_TIES,
        max_excluded_share=MAX_EXCLUDED_SHARE,
        picture_db=50.0,
        cosine=0.99999,
        free_running=True,
    ),
    "fp16": Tolerance(
        codes=0.99, near_ties=0.0, max_excluded_share=0.0, picture_db=40.0, cosine=0.999, free_running=True
    ),
    "int8": Tolerance(
        codes=0.97, near_ties=0.0, max_excluded_share=0.0, picture_db=32.0, cosine=0.99, free_running=False
    ),
}

# A merged graph against its own stages one by one: only what a backend fuses across their borders may differ.
MERGED_TOLERANCE = Tolerance(
    codes=0.998,
    near_ties=NEAR_TIES,
    max_excluded_share=MAX_EXCLUDED_SHARE,
    picture_db=45.0,
    cosine=0.99999,
    free_running=True,
)


def open_sessions(
    graphs: Mapping[str, bytes], backend: str, *, threads: int | None = None, trusted: bool = True
) -> dict[str, Session]:
    """Every graph by its stage's name, loaded into `backend`; other arguments as in `SessionOptions`."""
    wanted = [(graph, f"{stage}.onnx") for stage, graph in graphs.items()]
    sessions = open_in_parallel(wanted, backend, threads=threads, trusted=trusted)
    return dict(zip(graphs, sessions, strict=True))


def parity_of(
    stages: Sequence[StageSpec],
    sessions: Mapping[str, Session],
    batches: Sequence[ReferenceBatch],
    *,
    tolerance: Tolerance,
    backend: str,
) -> tuple[StageParity, ...]:
    """Both comparisons of every stage; `sessions` by stage name, all of one precision and `backend`."""
    # First what fails with a clear error where a stage's outputs are not what the next one takes.
    free = free_parity(stages, sessions, batches, tolerance=tolerance, backend=backend)
    forced = [
        forced_parity(stage, sessions[stage.name], batches, tolerance=tolerance, backend=backend)
        for stage in stages
    ]
    return (*forced, *free)


def free_parity(
    stages: Sequence[StageSpec],
    sessions: Mapping[str, Session],
    batches: Sequence[ReferenceBatch],
    *,
    tolerance: Tolerance,
    backend: str,
) -> tuple[StageParity, ...]:
    """How every stage does on what the stages before it gave."""
    free = list(parallel_map(lambda batch: run_pipeline(stages, sessions, batch), batches))
    judged_rows, found = _all(batches), []
    for stage in stages:
        found.append(_judged(stage, batches, free, judged_rows, tolerance, (FREE_RUNNING, backend)))
        if tolerance.near_ties:
            judged_rows = [
                c & _same_codes(stage, batch, tensors)
                for c, batch, tensors in zip(judged_rows, batches, free, strict=True)
            ]
    return tuple(found)


def forced_parity(
    stage: StageSpec,
    session: Session,
    batches: Sequence[ReferenceBatch],
    *,
    tolerance: Tolerance,
    backend: str,
) -> StageParity:
    """How one stage does on the reference's own inputs."""
    inputs = [{t.name: batch.tensors[t.name] for t in stage.inputs} for batch in batches]
    forced = list(parallel_map(session.run, inputs))
    return _judged(stage, batches, forced, _all(batches), tolerance, (TEACHER_FORCED, backend))


def _all(batches: Sequence[ReferenceBatch]) -> list[npt.NDArray[np.bool_]]:
    """Every picture of every batch."""
    return [np.ones(len(batch.prompts), bool) for batch in batches]


def verdict_of(parity: Sequence[StageParity]) -> str:
    """Pass when every comparison does."""
    return FAIL if any(p.verdict == FAIL for p in parity) else PASS


def run_pipeline(
    stages: Sequence[StageSpec], sessions: Mapping[str, Session], batch: ReferenceBatch
) -> dict[str, Array]:
    """Every tensor of the way by name, each stage fed what those before it gave."""
    given = {t.name for stage in stages for t in stage.outputs}
    tensors = {name: value for name, value in batch.tensors.items() if name not in given}
    for stage in stages:
        tensors.update(sessions[stage.name].run({t.name: tensors[t.name] for t in stage.inputs}))
    return tensors


def _same_codes(
    stage: StageSpec, batch: ReferenceBatch, tensors: Mapping[str, Array]
) -> npt.NDArray[np.bool_]:
    """Which samples of the batch have all of the stage's codes as the reference has them."""
    same = np.ones(len(batch.prompts), bool)
    for tensor in stage.outputs:
        if is_codes(tensor):
            equal = batch.tensors[tensor.name] == tensors[tensor.name]
            words = words_of(tensor, batch)
            equal |= ~words.reshape(*words.shape, *[1] * (equal.ndim - words.ndim))
            same &= equal.reshape(len(same), -1).all(1)
    return same


def _judged(
    stage: StageSpec,
    batches: Sequence[ReferenceBatch],
    outputs: Sequence[Mapping[str, Array]],
    judged_rows: Sequence[npt.NDArray[np.bool_]],
    tolerance: Tolerance,
    how: tuple[str, str],
) -> StageParity:
    """The stage's figures over all samples; the verdict over the samples that are still `judged_rows`."""
    mode, backend = how
    everything = [np.ones_like(c) for c in judged_rows]
    tensors: dict[str, TensorMetrics] = {}
    reasons: list[str] = []
    left_out = 0
    for tensor in stage.outputs:
        tensors[tensor.name] = metrics_of(tensor_pair(tensor, batches, outputs, everything), NEAR_TIE_MARGIN)
        if mode == FREE_RUNNING and not tolerance.free_running:
            continue
        rows = judged_rows
        if tolerance.near_ties and not is_codes(tensor):  # what follows from the stage's own near ties
            same = (_same_codes(stage, batch, out) for batch, out in zip(batches, outputs, strict=True))
            rows = [c & s for c, s in zip(judged_rows, same, strict=True)]
        left_out = max(left_out, sum(int((~r).sum()) for r in rows))
        judged: TensorMetrics | None = None
        if all(r.all() for r in rows):
            judged = tensors[tensor.name]
        elif any(r.any() for r in rows):
            judged = metrics_of(tensor_pair(tensor, batches, outputs, rows), NEAR_TIE_MARGIN)
        reasons += [] if judged is None else _shortfalls(tensor.name, judged, tolerance)
    samples = sum(len(c) for c in judged_rows)
    if left_out > _allowed(tolerance.max_excluded_share, samples):
        most = f"at most {100 * tolerance.max_excluded_share:g} % may"
        reasons.append(f"{left_out} of {samples} pictures follow from near ties, {most}")
    return StageParity(
        stage=stage.name,
        mode=mode,
        backend=backend,
        tensors=tensors,
        verdict=FAIL if reasons else PASS,
        reason="; ".join(reasons),
        excluded_pictures=left_out,
    )


def _allowed(share: float, whole: int) -> int:
    """The share of `whole`, rounded down, but one at least where any are allowed."""
    return max(1, int(share * whole)) if share else 0


def _shortfalls(name: str, metrics: TensorMetrics, tolerance: Tolerance) -> list[str]:
    """Where the figures are outside the tolerance, in words."""
    if isinstance(metrics, CodeMetrics):
        excused = min(metrics.near_ties, _allowed(tolerance.near_ties, metrics.compared))
        if excused == metrics.near_ties:  # all of what they changed follows from them
            excused += min(metrics.propagated, _allowed(tolerance.max_excluded_share, metrics.compared))
        if (metrics.equal + excused) / metrics.compared < tolerance.codes:
            return [f"{name}: {_codes_in_words(metrics, tolerance)}"]
    elif isinstance(metrics, ImageMetrics):
        if metrics.psnr_db is not None and metrics.psnr_db < tolerance.picture_db:
            return [f"{name}: {metrics.psnr_db:.1f} dB, the tolerance is {tolerance.picture_db:g} dB"]
    elif isinstance(metrics, FloatMetrics) and not metrics.cosine >= tolerance.cosine:
        return [f"{name}: cosine {metrics.cosine:.6f}, the tolerance is {tolerance.cosine:g}"]
    return []


def _codes_in_words(metrics: CodeMetrics, tolerance: Tolerance) -> str:
    different = metrics.compared - metrics.equal
    text = f"{different} of {metrics.compared} codes differ, {100 * tolerance.codes:g} % must agree"
    if not (tolerance.near_ties and metrics.near_ties):
        return text
    after = f", {metrics.propagated} followed from these" if metrics.propagated else ""
    most = f"at most {100 * tolerance.near_ties:g} % are excused"
    return f"{text}; {metrics.near_ties} were near ties, {most}{after}"


def failure_of(precisions: Sequence[PrecisionResult]) -> ParityError:
    """The error that names the first comparison that failed."""
    reasons = [
        f"{result.precision} {one.stage} ({one.mode}, {one.backend}): {one.reason}"
        for result in precisions
        for one in result.parity
        if one.verdict == FAIL
    ]
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    problem = f"the graphs do not draw what the trained model draws: {reasons[0]}{more}"
    return ParityError(problem, "nothing was written; --allow-failing writes the bundle, marked as failing")
