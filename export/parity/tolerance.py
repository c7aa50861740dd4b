"""How far each precision may differ from PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from textual_vision.export.results import CodeMetrics, FloatMetrics, ImageMetrics, TensorMetrics

NEAR_TIE_MARGIN = 1e-4  # of a code's margin, see `model.stage.Stage`


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a precision may differ from the reference.

    - `codes`: the smallest share of codes that are equal.
    - `near_ties`: the largest share of codes that may differ and still count as equal, because they lost by
      less than NEAR_TIE_MARGIN. One code always may, unless the share is 0.
    - `max_excluded_share`: the largest share of pictures that later stages are not judged on, because an
      earlier near tie changed their codes.
    - `picture_db`: the smallest PSNR of pictures, in dB.
    - `cosine`: the smallest cosine similarity of float tensors.
    - `free_running`: whether the pipeline is judged too, not only each stage on the reference's inputs.
    """

    codes: float
    near_ties: float
    max_excluded_share: float
    picture_db: float
    cosine: float
    free_running: bool


# Another order of rounding moves distances by about 1e-6: 2 in 10,000 codes of a trained model are that near
# a tie. More flips than NEAR_TIES are a fault of the graph, however near each tie was.
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

# The merged graph is compared with its own stages in a chain: only fusions across their borders may differ.
MERGED_TOLERANCE = Tolerance(
    codes=0.998,
    near_ties=NEAR_TIES,
    max_excluded_share=MAX_EXCLUDED_SHARE,
    picture_db=45.0,
    cosine=0.99999,
    free_running=True,
)

# Other processors round differently, so golden pictures may be this much worse there.
GOLDEN_SLACK_CODES, GOLDEN_SLACK_DB = 0.03, 10.0
GOLDEN_MIN_DB = 20.0


def golden_limits(precision: str) -> dict[str, float]:
    """Return the least `code_agreement` and `psnr_db` of golden pictures; the fields of a GoldenBudget."""
    tolerance = TOLERANCES[precision]
    return {
        "code_agreement": max(0.0, tolerance.codes - GOLDEN_SLACK_CODES),
        "psnr_db": max(GOLDEN_MIN_DB, tolerance.picture_db - GOLDEN_SLACK_DB),
    }


def shortfall(name: str, metrics: TensorMetrics, tolerance: Tolerance) -> list[str]:
    """Return why the tensor `name` is outside the tolerance, in words; nothing when it is inside."""
    if isinstance(metrics, CodeMetrics):
        if _agreement(metrics, tolerance) < tolerance.codes:
            return [f"{name}: {_differing_codes(metrics, tolerance)}"]
    elif isinstance(metrics, ImageMetrics):
        if metrics.psnr_db is not None and metrics.psnr_db < tolerance.picture_db:
            return [f"{name}: {metrics.psnr_db:.1f} dB, at least {tolerance.picture_db:g} dB are required"]
    elif isinstance(metrics, FloatMetrics) and not metrics.cosine >= tolerance.cosine:
        return [f"{name}: cosine {metrics.cosine:.6f}, at least {tolerance.cosine:g} is required"]
    return []


def allowed_count(share: float, count: int) -> int:
    """Return the share of `count`, rounded down, but at least 1 unless the share is 0."""
    return max(1, int(share * count)) if share else 0


def _agreement(metrics: CodeMetrics, tolerance: Tolerance) -> float:
    """Return the share of codes that are equal or excused."""
    excused = min(metrics.near_ties, allowed_count(tolerance.near_ties, metrics.compared))
    if excused == metrics.near_ties:  # when all near ties are excused, so is what propagated from them
        excused += min(metrics.propagated, allowed_count(tolerance.max_excluded_share, metrics.compared))
    return (metrics.equal + excused) / metrics.compared


def _differing_codes(metrics: CodeMetrics, tolerance: Tolerance) -> str:
    different = metrics.compared - metrics.equal
    text = f"{different} of {metrics.compared} codes differ, {100 * tolerance.codes:g} % must agree"
    if not (tolerance.near_ties and metrics.near_ties):
        return text
    propagated = f", {metrics.propagated} propagated from these" if metrics.propagated else ""
    most = f"at most {100 * tolerance.near_ties:g} % are excused"
    return f"{text}; {metrics.near_ties} were near ties, {most}{propagated}"
