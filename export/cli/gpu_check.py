"""tv-export gpu-check: build, run, compare and measure engines on this machine's GPU."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from textual_vision.runtime.errors import ParityError, UsageError

if TYPE_CHECKING:
    from textual_vision.runtime.progress import ProgressCallback


@click.command("gpu-check")
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("gpu-check.json"),
    show_default=True,
    help="File to write the report to.",
)
def gpu_check_command(bundle: Path | None, output: Path) -> None:
    """Check BUNDLE on this machine's GPU.

    Engines of every precision are built, run, compared and timed. Without BUNDLE, the shipped model is
    exported first.
    """
    from textual_vision.export.cli.printing import print_progress
    from textual_vision.export.results import PASS
    from textual_vision.export.tensorrt.gpu_check import check_bundle, find_gpu
    from textual_vision.runtime.files import write_atomic

    gpu = find_gpu()
    if output.is_dir():
        raise UsageError(f"{output} is a folder", "give the name of a file: -o gpu-check.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        path = bundle or _shipped_bundle(Path(folder), print_progress)
        report = check_bundle(path, gpu, on_progress=print_progress)
    write_atomic(output, (json.dumps(report, indent=2) + "\n").encode())
    click.echo(f"wrote {output}: {report['verdict']}")
    if report["verdict"] != PASS:
        raise ParityError(f"the GPU fails the check: see {output}", "attach the report to an issue")


def _shipped_bundle(folder: Path, on_progress: ProgressCallback) -> Path:
    from textual_vision.export.build.build import build_bundle
    from textual_vision.export.build.options import BuildOptions

    on_progress("build a bundle of the shipped model")
    path = folder / "emoji.tv"
    build_bundle("emoji", path, BuildOptions(precisions=("fp32", "fp16", "int8")))
    return path
