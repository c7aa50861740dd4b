"""Generate the report's samples with each precision: pictures, error maps and grids of codes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textual_vision.export.host.parallel import parallel_map
from textual_vision.export.model.batch import Array, ReferenceBatch
from textual_vision.export.parity.metrics import image_metrics
from textual_vision.export.parity.tolerance import NEAR_TIE_MARGIN
from textual_vision.export.parity.verdict import run_pipeline
from textual_vision.export.results import CodeMetrics, ImageMetrics
from textual_vision.runtime.backends.session import Session
from textual_vision.runtime.generation.program import Program
from textual_vision.runtime.images.png import png_from_image

Image = npt.NDArray[np.uint8]

AMPLIFICATION = 8
FIRST_SAMPLES, WORST_SAMPLES = 4, 2
# Black, violet, red, yellow, white: amplified errors of 0, 1/4, 1/2, 3/4 and all of 255.
HEAT = np.array([(0, 0, 0), (75, 12, 107), (203, 52, 70), (249, 178, 49), (255, 255, 255)], np.float64)
EQUAL_DARK, EQUAL_LIGHT = (44, 62, 92), (132, 160, 204)
NEAR_TIE, DIFFERENT = (240, 173, 40), (214, 40, 70)


@dataclass(frozen=True, kw_only=True)
class ReportImage:
    """One sample as one precision generates it, free-running; `image` (H, W, 3) uint8."""

    image: Image
    codes: Array
    image_metrics: ImageMetrics
    code_metrics: CodeMetrics | None


@dataclass(frozen=True, kw_only=True)
class ReportSample:
    """One prompt and seed: PyTorch's picture, codes and their margins, and the precisions' pictures."""

    prompt: str
    seed: int
    image: Image
    codes: Array | None
    margins: npt.NDArray[np.float32] | None
    generated: dict[str, ReportImage]


def samples_from_batches(
    program: Program,
    sessions: Mapping[str, Mapping[str, Session]],
    batches: Sequence[ReferenceBatch],
) -> tuple[ReportSample, ...]:
    """Generate every sample of `batches` with the `sessions` (precision → stage → session)."""
    found: list[ReportSample] = []
    outputs = parallel_map(lambda batch: _generate(program, sessions, batch), batches)
    for batch, tensors in zip(batches, outputs, strict=True):
        found += [_sample(batch, index, tensors) for index in range(len(batch.prompts))]
    return tuple(found)


def _generate(
    program: Program, sessions: Mapping[str, Mapping[str, Session]], batch: ReferenceBatch
) -> dict[str, dict[str, Array]]:
    return {name: run_pipeline(program, by_stage, batch) for name, by_stage in sessions.items()}


def _sample(batch: ReferenceBatch, index: int, outputs: Mapping[str, Mapping[str, Array]]) -> ReportSample:
    image = batch.tensors["image"][index].astype(np.uint8)
    codes = batch.tensors["codes"][index] if "codes" in batch.tensors else None
    margins = batch.margins["codes"][index] if "codes" in batch.margins else None
    images = {}
    for name, tensors in outputs.items():
        found = tensors["image"][index].astype(np.uint8)
        images[name] = ReportImage(
            image=found,
            codes=tensors["codes"][index] if codes is not None else np.zeros(0, np.int64),
            image_metrics=image_metrics(image[None], found[None]),
            code_metrics=None if codes is None else _code_metrics(codes, tensors["codes"][index], margins),
        )
    return ReportSample(
        prompt=batch.prompts[index],
        seed=batch.seeds[index],
        image=image,
        codes=codes,
        margins=margins,
        generated=images,
    )


def _code_metrics(expected: Array, found: Array, margins: npt.NDArray[np.float32] | None) -> CodeMetrics:
    differs = expected != found
    ties = 0 if margins is None else int((differs & (margins < NEAR_TIE_MARGIN)).sum())
    return CodeMetrics(compared=differs.size, equal=int((~differs).sum()), near_ties=ties)


def select_samples(samples: Sequence[ReportSample]) -> tuple[tuple[ReportSample, bool], ...]:
    """Return the first samples, then those of the rest with the lowest PSNR, marked by True."""

    def badness(sample: ReportSample) -> float:
        decibels = [one.image_metrics.psnr_db for one in sample.generated.values()]
        return min((db for db in decibels if db is not None), default=np.inf)

    worst = sorted(samples[FIRST_SAMPLES:], key=badness)[:WORST_SAMPLES]
    return (
        *((s, False) for s in samples[:FIRST_SAMPLES]),
        *((s, True) for s in worst if badness(s) < np.inf),
    )


def error_map(expected: Image, found: Image) -> Image:
    """Return the largest error of each pixel's channels, amplified, as a heat map (H, W, 3)."""
    error = np.abs(expected.astype(np.float64) - found.astype(np.float64)).max(axis=2)
    level = np.minimum(error * AMPLIFICATION / 255.0, 1.0) * (len(HEAT) - 1)
    channels = [np.interp(level, range(len(HEAT)), HEAT[:, channel]) for channel in range(3)]
    heat: Image = np.stack(channels, -1).astype(np.uint8)
    return heat


def reference_grid(codes: Array) -> Image:
    """Return codes (rows, columns) as a picture of one pixel each, with a color per code."""
    hue = codes.astype(np.float64) * 0.61803398875  # the golden angle keeps neighboring codes apart
    phases = np.stack([hue, hue + 1 / 3, hue + 2 / 3], -1)
    colors: Image = (128 + 84 * np.cos(2 * np.pi * phases)).astype(np.uint8)
    return colors


def agreement_grid(sample: ReportSample, found: Array) -> Image:
    """Return a picture of one pixel per code: equal in blue, near tie in amber, different in red."""
    assert sample.codes is not None
    share = (sample.codes.astype(np.float64) * 0.61803398875) % 1.0
    grid = np.array(EQUAL_DARK) + share[..., None] * (np.array(EQUAL_LIGHT) - np.array(EQUAL_DARK))
    differs = sample.codes != found
    grid[differs] = DIFFERENT
    if sample.margins is not None:
        grid[differs & (sample.margins < NEAR_TIE_MARGIN)] = NEAR_TIE
    colors: Image = grid.astype(np.uint8)
    return colors


def data_uri(image: Image) -> str:
    """Return the picture as a `data:` URI of a PNG."""
    return "data:image/png;base64," + base64.b64encode(png_from_image(image)).decode()
