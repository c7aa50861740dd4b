"""Measure how much accuracy, time and size change when one layer alone is in int8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual_vision.runtime.errors import UsageError

if TYPE_CHECKING:
    from textual_vision.export.int8.score import Evaluator
    from textual_vision.export.int8.stage import QuantizedStage
    from textual_vision.export.model.batch import ReferenceBatch
    from textual_vision.runtime.bundle import Bundle

SHOWN_DECIBELS = 60.0  # the plot's end: more is not seen
BATCH_SIZE = 4


@dataclass(frozen=True, kw_only=True)
class LayerSensitivity:
    """One layer in int8 and everything else in float.

    Agreements are shares 0 … 1; `psnr_db` of the free-running picture, None when it stays identical.
    `milliseconds_saved` of one picture (negative: slower), `bytes_saved` of the stage's graph.
    """

    stage: str
    layer: str
    kind: str
    mode: str
    parameters: int
    text_code_agreement: float
    code_agreement: float
    psnr_db: float | None
    milliseconds_saved: float
    bytes_saved: int


def sensitivity(stages: Sequence[QuantizedStage], evaluator: Evaluator) -> Iterator[LayerSensitivity]:
    """Every layer of every stage, in the order of stages; distances to codes too, to show what they cost."""
    import math

    from textual_vision.export.int8.layers import INT8, MIN_WEIGHT_VALUES, WEIGHT_ONLY

    for one in stages:
        plain = one.graph({})
        for layer in one.layers:
            if layer.parameters < MIN_WEIGHT_VALUES:
                continue
            mode = WEIGHT_ONLY if layer.is_weight_only else INT8
            graph = one.graph({layer.name: mode})
            score = evaluator.score({one.stage.name: graph})
            before, after = evaluator.time(one.stage, [plain, graph])
            yield LayerSensitivity(
                stage=one.stage.name,
                layer=layer.name,
                kind=layer.kind,
                mode=mode,
                parameters=layer.parameters,
                text_code_agreement=score.text_code_agreement,
                code_agreement=score.code_agreement,
                psnr_db=None if math.isinf(score.psnr) else score.psnr,
                milliseconds_saved=before - after,
                bytes_saved=len(plain) - len(graph),
            )


def plot_sensitivity(found: Sequence[LayerSensitivity], path: Path) -> None:
    """A bar for each layer: decibels that are left, wrong image codes, and bytes saved."""
    import io

    import matplotlib

    from textual_vision.runtime.files import write_atomic

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 1.5 + 0.22 * len(found)), sharey=True)
    names = [f"{one.stage}: {one.layer}" for one in found]
    columns = (
        (
            "picture, dB (60: identical)",
            [min(one.psnr_db or SHOWN_DECIBELS, SHOWN_DECIBELS) for one in found],
        ),
        ("image codes that change, %", [100 * (1 - one.code_agreement) for one in found]),
        ("kB saved", [one.bytes_saved / 1000 for one in found]),
    )
    for axis, (title, values) in zip(axes, columns, strict=True):
        axis.barh(names, values)
        axis.set_title(title)
    axes[0].invert_yaxis()
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:])
    plt.close(figure)
    write_atomic(path, buffer.getvalue())


def sensitivity_of_bundle(
    bundle: Bundle, prompts: Sequence[str], *, backend: str, method: str
) -> Iterator[LayerSensitivity]:
    """The layers of a bundle's float32 graphs, measured on samples of `prompts` by those very graphs.

    Raises UsageError when the bundle has no float32 graphs.
    """
    from textual_vision.export.int8.score import Evaluator
    from textual_vision.export.int8.stage import PLAIN, RangeOptions, quantize_stage

    manifest = bundle.manifest
    if "fp32" not in manifest.precisions:
        hint = "build it with --precision fp32 as well"
        raise UsageError("the bundle has no float32 graphs to start from", hint)
    files = manifest.precisions["fp32"].files
    graphs = {stage.name: bundle.read(files[stage.name]) for stage in manifest.stages}
    batches = reference_batches_of_bundle(bundle, graphs, prompts, backend)
    from textual_vision.runtime.generation.program import program_from_manifest

    evaluator = Evaluator(program_from_manifest(manifest), graphs, batches, backend)
    options = RangeOptions(method=method, corrections=(PLAIN,))
    stages = [quantize_stage(stage, graphs[stage.name], evaluator, options) for stage in manifest.stages]
    yield from sensitivity(stages, evaluator)


def reference_batches_of_bundle(
    bundle: Bundle, graphs: dict[str, bytes], prompts: Sequence[str], backend: str
) -> list[ReferenceBatch]:
    """Return pictures of the prompts by the float graphs, the reference here."""
    from textual_vision.export.parity.verdict import batch_from_graphs
    from textual_vision.export.sessions.opening import open_sessions

    sessions = open_sessions(graphs, backend)
    parts = [prompts[start : start + BATCH_SIZE] for start in range(0, len(prompts), BATCH_SIZE)]
    return [
        batch_from_graphs(bundle, sessions, part, [index] * len(part)) for index, part in enumerate(parts)
    ]
