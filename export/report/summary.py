"""The report's table: each precision's and stage's metrics, of the worst backend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from textual_vision.export.results import (
    FAIL,
    FREE_RUNNING,
    MERGED,
    PASS,
    TEACHER_FORCED,
    CodeMetrics,
    FloatMetrics,
    PrecisionResult,
    StageParity,
)

REFERENCE = "fp32"


@dataclass(frozen=True, kw_only=True)
class WorstMetrics:
    """The worst metrics of several comparisons; None where there are none.

    `excluded_pictures` were not judged, since near ties changed their codes. `psnr_db` is None for identical
    pictures too. `cosine` and `max_abs` are of the float tensors.
    """

    agreement: float | None
    different: int
    near_ties: int
    excluded_pictures: int
    pictures: bool
    psnr_db: float | None
    ssim: float | None
    cosine: float | None
    max_abs: float | None
    verdict: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One graph of one precision, compared on the reference's inputs."""

    stage: str
    megabytes: float
    nodes: int
    milliseconds: float
    backend: str
    worst: WorstMetrics


@dataclass(frozen=True, kw_only=True)
class PrecisionRows:
    """One precision: its graphs, and `end_to_end`, the free-running pipeline from prompt to pixels.

    Sizes and times are sums over the stages; `size_ratio` and `speedup` are ratios to the reference
    precision's.
    """

    precision: str
    verdict: str
    stages: tuple[StageRow, ...]
    end_to_end: WorstMetrics
    megabytes: float
    milliseconds: float
    size_ratio: float
    speedup: float


def rows_from_precisions(precisions: Sequence[PrecisionResult]) -> tuple[PrecisionRows, ...]:
    """Return the table's rows; size and time ratios are to `reference_of` the precisions."""
    sums = [_sums(one) for one in precisions]
    names = [one.precision for one in precisions]
    first = sums[names.index(reference_of(names))]
    return tuple(
        PrecisionRows(
            precision=one.precision,
            verdict=one.verdict,
            stages=tuple(
                StageRow(
                    stage=graph.stage,
                    megabytes=graph.bytes / 1e6,
                    nodes=graph.nodes,
                    milliseconds=graph.milliseconds,
                    backend=graph.backend,
                    worst=worst_metrics(_of_stage(one, graph.stage)),
                )
                for graph in one.graphs
            ),
            end_to_end=worst_metrics(_last_free(one)),
            megabytes=megabytes,
            milliseconds=milliseconds,
            size_ratio=_ratio(first[0], megabytes),
            speedup=_ratio(first[1], milliseconds),
        )
        for one, (megabytes, milliseconds) in zip(precisions, sums, strict=True)
    )


def reference_of(precisions: Sequence[str]) -> str:
    """Return the precision that others are compared with: fp32 where it was built, else the first."""
    return REFERENCE if REFERENCE in precisions else precisions[0]


def _sums(result: PrecisionResult) -> tuple[float, float]:
    return sum(g.bytes for g in result.stage_graphs) / 1e6, sum(g.milliseconds for g in result.stage_graphs)


def _ratio(first: float, other: float) -> float:
    return first / other if other else 1.0


def _of_stage(result: PrecisionResult, stage: str) -> list[StageParity]:
    """Return a stage's teacher-forced comparisons; of the merged graph, those with its own stages."""
    mode = FREE_RUNNING if stage == MERGED else TEACHER_FORCED
    return [p for p in result.parity if (p.stage, p.mode) == (stage, mode)]


def _last_free(result: PrecisionResult) -> list[StageParity]:
    """Return the free-running comparisons of the last stages that output codes and pictures."""
    free = [p for p in result.parity if p.mode == FREE_RUNNING and p.stage != MERGED]
    with_codes = [p.stage for p in free if "codes" in p.tensors]
    return [p for p in free if p.image is not None or p.stage in with_codes[-1:]]


def worst_metrics(parity: Sequence[StageParity]) -> WorstMetrics:
    """Return the worst metrics of one stage's comparisons by several backends."""
    codes = [p.codes for p in parity if p.codes is not None]
    images = [p.image for p in parity if p.image is not None]
    floats = [f for p in parity for f in p.tensors.values() if isinstance(f, FloatMetrics)]
    worst_codes = min(codes, key=lambda c: c.agreement, default=CodeMetrics(compared=0, equal=0, near_ties=0))
    decibels = [i.psnr_db for i in images if i.psnr_db is not None]
    return WorstMetrics(
        agreement=worst_codes.agreement if codes else None,
        different=worst_codes.compared - worst_codes.equal,
        near_ties=worst_codes.near_ties,
        excluded_pictures=max((p.excluded_pictures for p in parity), default=0),
        pictures=bool(images),
        psnr_db=min(decibels, default=None),
        ssim=min((i.ssim for i in images), default=None),
        cosine=min((f.cosine if math.isfinite(f.cosine) else -1.0 for f in floats), default=None),
        max_abs=max((f.max_abs for f in floats), default=None),
        verdict=FAIL if any(p.verdict == FAIL for p in parity) else PASS,
        reasons=tuple(f"{p.backend}: {p.reason}" for p in parity if p.reason),
    )
