"""What int8 costs a bundle's stages, one changed at a time: every correction, every way to find ranges.

    python int8_figures.py emoji.tv heldout.txt generator latent

Needs the bundle's float32 graphs, whose samples are the reference. Ranges come from the prompts that a build
calibrates on, figures from those of the file, one per line. The table is Markdown; without names of stages it
is of all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from textual_vision.calibration.prompts import read_prompts
from textual_vision.calibration.ranges import METHODS
from textual_vision.export.int8.layers import HALF, INT8, WEIGHT_ONLY, default_modes
from textual_vision.export.int8.score import Evaluator
from textual_vision.export.int8.sensitivity import reference_batches_of_bundle
from textual_vision.export.int8.stage import (
    CORRECTIONS,
    GPTQ,
    PLAIN,
    RangeOptions,
    quantize_stage,
)
from textual_vision.export.model.prompts import CALIBRATED
from textual_vision.runtime.backends.session import default_backend
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.manifest import StageSpec

Row = tuple[str, dict[str, bytes]]


def rows(stage: StageSpec, graph: bytes, evaluator: Evaluator) -> Iterator[Row]:
    """How a stage is changed, and its graph then."""
    plain = quantize_stage(stage, graph, evaluator, RangeOptions(corrections=(PLAIN,)))
    for name, mode in (("half", HALF), ("int8 weights, nearest", WEIGHT_ONLY)):
        yield name, {stage.name: plain.graph(default_modes(plain.layers, mode))}
    for correction in CORRECTIONS:
        wanted = (correction,) if correction != GPTQ else (PLAIN, GPTQ)
        found = quantize_stage(stage, graph, evaluator, RangeOptions(corrections=wanted))
        if correction == GPTQ:
            yield (
                f"int8 weights, {found.correction}",
                {stage.name: found.graph(default_modes(found.layers, WEIGHT_ONLY))},
            )
        yield f"int8, {found.correction}", {stage.name: found.graph(default_modes(found.layers, INT8))}
    for method in METHODS:
        found = quantize_stage(stage, graph, evaluator, RangeOptions(method=method, corrections=(PLAIN,)))
        yield f"int8, ranges by {method}", {stage.name: found.graph(default_modes(found.layers, INT8))}


def main(folder: Path, prompts: Path, wanted: list[str]) -> None:
    """Prints the table, of all stages if none is `wanted`."""
    bundle, backend = Bundle(folder), default_backend()
    files = bundle.manifest.precisions["fp32"].files
    stages = bundle.manifest.stages
    graphs = {stage.name: bundle.read(files[stage.name]) for stage in stages}
    calibration, judged = (
        Evaluator(stages, graphs, reference_batches_of_bundle(bundle, graphs, texts, backend), backend)
        for texts in (CALIBRATED, read_prompts(prompts).texts)
    )
    print(
        "| stage | how | text codes equal | image codes equal | pictures | graph |\n|---|---|---|---|---|---|"
    )
    for stage in (one for one in stages if not wanted or one.name in wanted):
        for how, changed in rows(stage, graphs[stage.name], calibration):
            score = judged.score(changed)
            print(
                f"| {stage.name} | {how} | {score.text_code_agreement:.2%} | {score.code_agreement:.2%} "
                f"| {score.psnr:.1f} dB | {len(changed[stage.name]) / 1e6:.1f} MB |",
                flush=True,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
