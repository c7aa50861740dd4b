"""tv-export sensitivity: measure how much each layer loses in int8."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from textual_vision.export.cli.arguments import CALIBRATION_METHOD
from textual_vision.runtime.errors import UsageError

if TYPE_CHECKING:
    from textual_vision.export.int8.sensitivity import LayerSensitivity

PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@click.command("sensitivity")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--calibration-prompts",
    type=click.Path(path_type=Path),
    metavar="FILE|random",
    help="File of prompts to measure on, one per line, or `random` for random words. "
    "[default: a built-in list]",
)
@click.option(
    "--samples", type=click.IntRange(1), default=16, show_default=True, help="Number of prompts to use."
)
@click.option(
    "--calibration-method",
    type=CALIBRATION_METHOD,
    default="mse",
    show_default=True,
    help="How int8 ranges are calibrated.",
)
@click.option("--backend", help="onnxruntime or openvino. [default: the first CPU backend installed]")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Also write a plot: .png, .svg or .pdf."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def sensitivity_command(
    bundle: Path,
    calibration_prompts: Path | None,
    samples: int,
    calibration_method: str,
    backend: str | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure what INT8 costs in each layer.

    Each layer of BUNDLE is quantized alone. The table has its loss of accuracy, and the time and bytes that
    it saves.
    """
    if plot is not None and plot.suffix not in PLOT_SUFFIXES:
        problem = f"--plot {plot} has no known picture format"
        raise UsageError(problem, f"choose a name that ends in one of: {', '.join(PLOT_SUFFIXES)}")
    from textual_vision.calibration.prompts import RANDOM, random_prompts, read_prompts, tokenizer_of_bundle
    from textual_vision.export.int8.sensitivity import plot_sensitivity, sensitivity_of_bundle
    from textual_vision.export.model.prompts import CALIBRATED
    from textual_vision.runtime.backends.session import default_backend
    from textual_vision.runtime.bundle import Bundle

    opened = Bundle(bundle)
    if calibration_prompts == Path(RANDOM):
        prompts = random_prompts(tokenizer_of_bundle(opened), samples)
    else:
        prompts = CALIBRATED if calibration_prompts is None else read_prompts(calibration_prompts).texts
    found = []
    for layer in sensitivity_of_bundle(
        opened, prompts[:samples], backend=backend or default_backend(), method=calibration_method
    ):
        found.append(layer)
        if not as_json:
            click.echo(_line(layer))
    if as_json:
        click.echo(json.dumps([asdict(layer) for layer in found], indent=1))
    if plot is not None:
        plot_sensitivity(found, plot)


def _line(layer: LayerSensitivity) -> str:
    psnr = "identical" if layer.psnr_db is None else f"{layer.psnr_db:6.1f} dB"
    return (
        f"{layer.stage:12} {layer.layer:45} text {100 * layer.text_code_agreement:6.2f} %  "
        f"codes {100 * layer.code_agreement:6.2f} %  {psnr:>9}  "
        f"{layer.milliseconds_saved:+6.2f} ms  {layer.bytes_saved / 1000:8.1f} kB"
    )
