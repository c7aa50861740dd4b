"""tv-export: make, check, look into and measure bundles."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from textual_vision.runtime import console
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.version import __version__

if TYPE_CHECKING:
    from textual_vision.export.build.options import BuildOptions
    from textual_vision.export.cli.engine import EngineJob
    from textual_vision.runtime.manifest import BatchProfile

# Commands that live in files of their own and are loaded when they are asked for: name → module, its command,
# and what it does.
ELSEWHERE = {
    "engine": ("textual_vision.export.cli.engine", "engine_command", "Add TensorRT engines to a bundle."),
    "sensitivity": (
        "textual_vision.export.int8.sensitivity",
        "sensitivity_command",
        "Show which layers lose most in int8.",
    ),
    "bench": ("textual_vision.export.cli.bench", "bench_command", "Measure a bundle and its peers."),
    "gpu-check": (
        "textual_vision.export.tensorrt.gpu_check",
        "command",
        "Try everything on the GPU that is here.",
    ),
}


class LazyGroup(click.Group):
    """A group whose commands elsewhere are imported only when one of them is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported if need be."""
        if cmd_name not in ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, name, _ = ELSEWHERE[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help, without importing what is elsewhere."""
        rows = []
        for name in self.list_commands(ctx):
            own = super().get_command(ctx, name)
            rows.append((name, own.get_short_help_str(80) if own is not None else ELSEWHERE[name][2]))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=LazyGroup, no_args_is_help=True)
@click.version_option(__version__)
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
    help="Folder to write, such as emoji.tv.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    default=("fp32",),
    show_default=True,
    help="fp32, fp16 or int8; repeat it for several. The first is what the bundle draws with by default.",
)
@click.option(
    "--opset", type=int, default=20, show_default=True, help="20 is the newest that TensorRT 10 reads."
)
@click.option(
    "--batch", default="1,1,8", show_default=True, metavar="MIN,OPT,MAX", help="Batch sizes for engines."
)
@click.option("--tokens", type=int, metavar="N", help="Fix the prompt's length. [default: open]")
@click.option(
    "--target",
    type=click.Choice(["cpu", "tensorrt", "tensorrt-rtx"]),
    default="cpu",
    show_default=True,
    help="cpu: rewrites are chosen by timing them here. The others: by what is known of them, and engines "
    "are built too, for the GPU that is here or for desktop GPUs.",
)
@click.option(
    "--engines/--no-engines",
    default=True,
    show_default=True,
    help="Whether a --target other than cpu builds its engines now; `tv-export engine` does it later.",
)
@click.option(
    "--compute-capability",
    "compute",
    multiple=True,
    metavar="X.Y",
    help="For --target tensorrt-rtx: GPU to build for, such as 8.6; repeat it for several.",
)
@click.option(
    "--samples", type=int, default=32, show_default=True, help="Pictures to compare with PyTorch's."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="Of the first picture."
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help="Compare on these prompts, one a line. [default: ours]",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="Calibrate on these prompts, one a line; `random`: on random words. [default: others of ours]",
)
@click.option(
    "--calibration-prompts",
    "calibration_count",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    metavar="N",
    help="Of more prompts than N, those are taken that visit the most codebook rows.",
)
@click.option(
    "--calibration-cache",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take int8's ranges from an earlier bundle's calibration/….json of the same model and prompts.",
)
@click.option(
    "--budget",
    metavar="METRIC>=NUMBER,...",
    help="What int8 may cost. [default: code_agreement>=0.995,psnr>=32,generator_psnr>=36]",
)
@click.option(
    "--range-method",
    type=click.Choice(["auto", "minmax", "entropy", "percentile", "mse"]),
    default="auto",
    show_default=True,
    help="How int8's ranges are found; auto: for each tensor the best of the others.",
)
@click.option(
    "--reference",
    is_flag=True,
    help="Compare two pictures by ONNX's own reference implementation too: it takes seconds for each.",
)
@click.option("--no-rewrite", multiple=True, metavar="NAME", help="Leave out a rewrite of the graphs.")
@click.option("--no-merged", is_flag=True, help="Leave out pipeline.onnx: half the size.")
@click.option("--force", is_flag=True, help="Replace the bundle that is there.")
@click.option(
    "--allow-failing", is_flag=True, help="Write a bundle that fails its comparison, marked as such."
)
@click.option("--no-cache", is_flag=True, help="Neither use nor keep the results of steps.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def build_command(
    checkpoint: str,
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

    CHECKPOINT is the name of a shipped model, a checkpoint's folder, or FILE.py:FUNCTION for a model of your
    own.

    \b
    tv-export build -o emoji.tv
    tv-export build emoji -o emoji.tv --precision int8 --precision fp32
    tv-export build emoji -o emoji.tv --precision fp16 --target tensorrt-rtx --compute-capability 8.6
    """
    from textual_vision.export.build.build import build
    from textual_vision.export.cli import printing as show
    from textual_vision.export.host.step_cache import default_cache

    options = _options({**given, "target": "cpu" if target == "cpu" else "tensorrt"})
    job = _engine_job(target, engines, compute, options)
    if dry_run:
        show.show_plan(checkpoint, output, options, as_json, job)
        return
    result = build(
        checkpoint, output, options, cache=None if no_cache else default_cache(), tell=show.step_teller()
    )
    engines_built = () if job is None else job.add_to(output)
    show.show_build(result, as_json, engines_built)


def _engine_job(
    target: str, engines: bool, compute: tuple[str, ...], options: BuildOptions
) -> EngineJob | None:
    """What builds the engines once the bundle stands; raises before any work where nothing could."""
    if compute and (target != "tensorrt-rtx" or not engines):
        hint = "leave out --no-engines" if target == "tensorrt-rtx" else "add --target tensorrt-rtx"
        raise UsageError("--compute-capability without engines to build", hint)
    if target == "cpu" or not engines:
        return None
    from textual_vision.export.cli.engine import EngineJob

    return EngineJob.for_build(target, options.precisions, compute)


def _options(given: dict[str, object]) -> BuildOptions:
    """The command's options as the library takes them."""
    import warnings

    from textual_vision.calibration.prompts import RANDOM, CalibrationWarning, read_prompts
    from textual_vision.export.build.options import BuildOptions

    changed = dict(given)
    changed["batch"] = _batch(str(changed.pop("batch")))
    changed["merged"] = not changed.pop("no_merged")
    compared, calibrated = changed.pop("prompts"), changed.pop("calibration")
    if isinstance(compared, Path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)  # few prompts are enough to compare on
            changed["prompts"] = read_prompts(compared).texts
    if calibrated == Path(RANDOM):
        changed["calibration_random"] = True
    elif isinstance(calibrated, Path):
        changed["calibration_prompts"] = read_prompts(calibrated).texts
    return BuildOptions(**changed)  # type: ignore[arg-type]


def _batch(text: str) -> BatchProfile:
    from textual_vision.runtime.manifest import BatchProfile

    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"--batch {text!r}", "give three numbers: --batch MIN,OPT,MAX, for example 1,1,8")
    low, opt, high = (int(part) for part in parts)
    return BatchProfile(min=low, opt=opt, max=high)


@command.command("inspect")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def inspect_command(bundle: Path, as_json: bool) -> None:
    """Show what is inside BUNDLE: stages, tensors, precisions, sizes, provenance."""
    from textual_vision.export.bundle.inspection import inspected
    from textual_vision.export.cli import printing as show

    show.show_inspection(inspected(bundle), as_json)


@command.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    metavar="CHECKPOINT",
    help="Compare with this checkpoint too, not only with the golden pictures.",
)
@click.option("--backend", help="onnxruntime, openvino, … [default: every one that is installed]")
@click.option("--samples", type=click.IntRange(2), default=8, show_default=True, help="Pictures to compare.")
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="Of the first.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def verify_command(
    bundle: Path, checkpoint: str | None, backend: str | None, samples: int, seed: int, as_json: bool
) -> None:
    """Check BUNDLE: digests, golden pictures in every precision, and a checkpoint if given."""
    from textual_vision.export.bundle.verify import failures_in, verified
    from textual_vision.export.cli import printing as show

    found = verified(bundle, backend=backend, checkpoint=checkpoint, samples=samples, seed=seed)
    show.show_verification(found, as_json)
    failures_in(found)


@command.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def doctor_command(as_json: bool) -> None:
    """Say what this machine can do, and what to install for more."""
    from textual_vision.export.cli import printing as show
    from textual_vision.export.cli.doctor import examined

    show.show_doctor(examined(), as_json)


def main() -> None:
    """The entry point of `tv-export`."""
    console.run(command)


if __name__ == "__main__":
    main()
