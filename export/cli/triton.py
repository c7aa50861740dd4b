"""tv-export triton: write a bundle as a model of Triton Inference Server."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click


@click.command("triton")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "repository",
    type=click.Path(path_type=Path),
    required=True,
    metavar="REPOSITORY",
    help="Model repository: a new folder, or one with other models and older versions.",
)
@click.option("--precision", help="Precision to serve. [default: the bundle's]")
@click.option(
    "--stages",
    type=click.Choice(["python", "onnxruntime", "tensorrt"]),
    default="python",
    show_default=True,
    help="Run the stages by this project's runtime in the Python backend, which every server has, or as "
    "models of the server's ONNX Runtime or TensorRT backend.",
)
@click.option(
    "--kind",
    type=click.Choice(["cpu", "gpu"]),
    default="cpu",
    show_default=True,
    help="Run the stages on CPUs or on GPUs.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Most prompts to compute together, from one or several requests. With 1 a picture never depends on "
    "other requests.",
)
@click.option(
    "--instances",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    metavar="N",
    help="Copies of each model that work at the same time, on each GPU.",
)
@click.option("--name", default="text_to_image", show_default=True, help="Name of the model for clients.")
@click.option("--cache-text", is_flag=True, help="Cache the text stage's responses in the server.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def triton_command(bundle: Path, repository: Path, as_json: bool, **given: Any) -> None:
    """Write BUNDLE for Triton Inference Server.

    It becomes the next version of its model in the model repository.

    \b
    tv-export triton emoji.tv -o models
    tv-export triton emoji.tv -o models --stages onnxruntime --kind gpu --max-batch 8
    """
    from textual_vision.export.triton.options import TritonOptions
    from textual_vision.export.triton.repository import write_repository

    result = write_repository(bundle, repository, TritonOptions(**given))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
        return
    place = Path(result.repository)
    for model in result.models:
        click.echo(f"wrote {place / model / str(result.version)}")
    click.echo(f"{result.bytes / 1e6:.1f} MB, {result.precision}")
    click.echo(f"next: tritonserver --model-repository {place}")
