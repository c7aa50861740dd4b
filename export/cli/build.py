"""tv-export build: convert a checkpoint to a bundle and compare it with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from textual_vision.export.cli.arguments import BATCH_PROFILE, CALIBRATION_METHOD
from textual_vision.runtime import console
from textual_vision.runtime.errors import UsageError

if TYPE_CHECKING:
    from textual_vision.export.build.options import BuildOptions
    from textual_vision.export.cli.engine import EngineJob


@click.command("build")
@click.argument("checkpoint", nargs=-1)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="BUNDLE",
    help="Folder to write, such as emoji.tv.",
)
@click.option(
    "--family",
    metavar="NAME",
    help="CHECKPOINT… are published weights of this family; `tv-export families` lists them.",
)
@click.option(
    "--family-option",
    "family_options",
    multiple=True,
    metavar="NAME=NUMBER",
    help="With --family, a number that the weights do not determine, such as steps=8; repeat it for several.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    default=("fp32",),
    show_default=True,
    help="fp32, fp16 or int8; repeat the option for several. The first is the bundle's default.",
)
@click.option(
    "--opset",
    type=int,
    default=20,
    show_default=True,
    help="ONNX opset of the graphs. TensorRT 10 reads up to 20, TensorRT 8.6 reads 17.",
)
@click.option(
    "--batch-profile",
    type=BATCH_PROFILE,
    default="1,1,8",
    show_default=True,
    metavar="MIN,OPT,MAX",
    help="Smallest, usual and largest batch of the engines that are built from the bundle.",
)
@click.option(
    "--prompt-length",
    type=int,
    metavar="N",
    help="Fix the prompt's length to N tokens. [default: any length]",
)
@click.option(
    "--target",
    type=click.Choice(["cpu", "tensorrt", "tensorrt-rtx"]),
    default="cpu",
    show_default=True,
    help="Runtime to write the graphs for. tensorrt also builds engines for this machine's GPU, "
    "tensorrt-rtx for desktop GPUs.",
)
@click.option(
    "--engines/--no-engines",
    default=True,
    show_default=True,
    help="With a --target other than cpu, build its engines now. `tv-export engine` builds them later.",
)
@click.option(
    "--compute-capability",
    "compute",
    multiple=True,
    metavar="X.Y",
    help="With --target tensorrt-rtx, the GPU to build engines for, such as 8.6; repeat it for several.",
)
@click.option(
    "--samples",
    type=int,
    default=32,
    show_default=True,
    help="Number of pictures to compare with PyTorch's.",
)
@click.option(
    "--seed", type=console.SEED, default=0, show_default=True, help="Seed of the first compared picture."
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File of prompts to compare on, one per line. [default: a built-in list]",
)
@click.option(
    "--calibration-prompts",
    type=click.Path(path_type=Path),
    metavar="FILE|random",
    help="File of prompts to calibrate on, one per line, or `random` for random words. "
    "[default: a second built-in list]",
)
@click.option(
    "--calibration-count",
    type=click.IntRange(1),
    metavar="N",
    help="Calibrate on at most N prompts: those that together visit the most codebook rows. "
    "[default: 64, fewer for large pictures and loops]",
)
@click.option(
    "--ranges",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read the int8 ranges from an earlier bundle's calibration/….json of the same model and prompts.",
)
@click.option(
    "--int8-tolerance",
    metavar="METRIC>=NUMBER,...",
    help="Accuracy that int8 must keep. [default: code_agreement>=0.995,psnr>=32,generator_psnr>=36]",
)
@click.option(
    "--calibration-method",
    type=CALIBRATION_METHOD,
    default="auto",
    show_default=True,
    help="How int8 ranges are calibrated; auto chooses the best of the others for each tensor.",
)
@click.option(
    "--reference",
    is_flag=True,
    help="Also compare two pictures with ONNX's reference implementation, which takes seconds for each.",
)
@click.option(
    "--no-rewrite", multiple=True, metavar="NAME", help="Skip this graph rewrite; repeat it for several."
)
@click.option("--no-merged", is_flag=True, help="Omit pipeline.onnx, the graph of all stages: half the size.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option(
    "--allow-failing", is_flag=True, help="Write a bundle that fails its comparison, and mark it as failing."
)
@click.option("--no-cache", is_flag=True, help="Neither read nor write the cache of build steps.")
@click.option("--dry-run", is_flag=True, help="Print the steps without doing them.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def build_command(
    checkpoint: tuple[str, ...],
    family: str | None,
    family_options: tuple[str, ...],
    output: Path,
    target: str,
    engines: bool,
    compute: tuple[str, ...],
    no_cache: bool,
    dry_run: bool,
    as_json: bool,
    **given: object,
) -> None:
    """Export CHECKPOINT into a bundle and compare it with PyTorch.

    CHECKPOINT is the name of a shipped model (emoji if left out), a checkpoint's folder, or FILE.py:FUNCTION
    for a custom model. With --family it is the files of the weights, or their folder.

    \b
    tv-export build -o emoji.tv
    tv-export build emoji -o emoji.tv --precision int8 --precision fp32
    tv-export build emoji -o emoji.tv --precision fp16 --target tensorrt-rtx --compute-capability 8.6
    tv-export build --family df-gan weights/ -o bird.tv
    """
    from textual_vision.export.build.build import build_bundle
    from textual_vision.export.cli import printing
    from textual_vision.export.host.step_cache import default_cache

    source = _source(checkpoint, family, family_options)
    options = _options({**given, "target": "cpu" if target == "cpu" else "tensorrt"})
    job = _engine_job(target, engines, compute, options)
    if dry_run:
        printing.show_plan(source, output, options, as_json, job)
        return
    cache = None if no_cache else default_cache()
    result = build_bundle(source, output, options, cache=cache, on_progress=printing.print_progress)
    engines_built = () if job is None else job.add_to(output)
    printing.show_build(result, as_json, engines_built)


def _source(checkpoint: tuple[str, ...], family: str | None, options: tuple[str, ...]) -> str:
    """Return what `load_model` takes; raises UsageError for several checkpoints without a family."""
    if family is not None:
        from textual_vision.export.families.registry import source_of_family

        return source_of_family(family, checkpoint, options)
    if options:
        raise UsageError("--family-option without --family", "name the family, or leave the option out")
    if len(checkpoint) > 1:
        problem = f"{len(checkpoint)} checkpoints: {', '.join(checkpoint)}"
        raise UsageError(problem, "give one, or say by --family what the files are")
    return checkpoint[0] if checkpoint else "emoji"


def _engine_job(
    target: str, engines: bool, compute: tuple[str, ...], options: BuildOptions
) -> EngineJob | None:
    """Return the engines to build after the bundle; raises before any work when this machine cannot."""
    if compute and (target != "tensorrt-rtx" or not engines):
        hint = "leave out --no-engines" if target == "tensorrt-rtx" else "add --target tensorrt-rtx"
        raise UsageError("--compute-capability needs engines to build", hint)
    if target == "cpu" or not engines:
        return None
    from textual_vision.export.cli.engine import EngineJob

    return EngineJob.for_build(target, options.precisions, compute)


def _options(given: dict[str, object]) -> BuildOptions:
    """Return the library's options; raises what reading the prompt files raises."""
    import warnings

    from textual_vision.calibration.prompts import RANDOM, CalibrationWarning, read_prompts
    from textual_vision.export.build.options import BuildOptions

    changed = dict(given)
    changed["merged"] = not changed.pop("no_merged")
    compared, calibrated = changed.pop("prompts"), changed.pop("calibration_prompts")
    if isinstance(compared, Path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)  # a comparison needs fewer prompts
            changed["prompts"] = read_prompts(compared).texts
    if calibrated == Path(RANDOM):
        changed["calibration_random"] = True
    elif isinstance(calibrated, Path):
        changed["calibration_prompts"] = read_prompts(calibrated).texts
    return BuildOptions(**changed)  # type: ignore[arg-type]
