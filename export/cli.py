"""tv-export: make, check, look into and measure bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from textual_vision.runtime import console
from textual_vision.runtime.errors import UsageError

if TYPE_CHECKING:
    from textual_vision.runtime.manifest import BatchProfile


@click.group(no_args_is_help=True)
@click.version_option(package_name="textual-vision")
def command() -> None:
    """From a trained checkpoint to a bundle of ONNX graphs that a device draws with."""


@command.command("build")
@click.argument("checkpoint", default="emoji")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="BUNDLE",
    help="Folder to write.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    default=("fp32",),
    show_default=True,
    help="fp32, fp16 or int8; repeat it for several, the first is the default.",
)
@click.option(
    "--opset",
    type=int,
    default=20,
    show_default=True,
    help="Of the graphs; 20 is the newest that TensorRT 10 reads.",
)
@click.option(
    "--batch",
    default="1,1,8",
    show_default=True,
    metavar="MIN,OPT,MAX",
    help="Batch sizes that engines are made for.",
)
@click.option(
    "--samples",
    type=click.IntRange(2),
    default=32,
    show_default=True,
    help="Pictures to compare with PyTorch.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the first picture to compare."
)
@click.option("--force", is_flag=True, help="Replace the bundle that is there.")
@click.option(
    "--allow-failing", is_flag=True, help="Write a bundle that failed its comparison, marked as such."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def build_command(
    checkpoint: str,
    output: Path,
    precisions: tuple[str, ...],
    opset: int,
    batch: str,
    samples: int,
    seed: int,
    force: bool,
    allow_failing: bool,
    as_json: bool,
) -> None:
    """Export CHECKPOINT (a name, a folder or FILE.py:FUNCTION) into a bundle, and compare it with PyTorch."""
    import dataclasses

    from textual_vision.export.build import BuildOptions, build
    from textual_vision.export.steps import default_cache

    options = BuildOptions(
        precisions=precisions,
        opset=opset,
        batch=_batch(batch),
        samples=samples,
        seed=seed,
        force=force,
        allow_failing=allow_failing,
    )
    result = build(
        checkpoint,
        output,
        options,
        cache=default_cache(),
        tell=lambda step: click.echo(
            f"{step.name}: {step.seconds:.1f} s{' (kept)' if step.cached else ''}", err=True
        ),
    )
    click.echo(json.dumps(dataclasses.asdict(result), indent=1))


def _batch(text: str) -> BatchProfile:
    from textual_vision.runtime.manifest import BatchProfile

    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"--batch {text!r}", "give three numbers: --batch MIN,OPT,MAX, for example 1,1,8")
    low, opt, high = (int(part) for part in parts)
    return BatchProfile(min=low, opt=opt, max=high)


def main() -> None:
    """The entry point of `tv-export`."""
    console.run(command)


if __name__ == "__main__":
    main()
