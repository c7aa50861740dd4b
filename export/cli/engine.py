"""tv-export engine: add engines for a GPU to a bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from textual_vision.runtime.errors import BackendMissingError, UsageError

if TYPE_CHECKING:
    from textual_vision.export.tensorrt.engines import EngineResult
    from textual_vision.export.tensorrt.options import EngineBuildOptions
    from textual_vision.runtime.manifest import BatchProfile

MIB = 1 << 20


@click.command("engine")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--precision", required=True, help="Which of the bundle's graphs: fp32, fp16 or int8.")
@click.option(
    "--target",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    default="tensorrt",
    show_default=True,
    help="tensorrt: for the device that is here. tensorrt-rtx: for desktop GPUs, on any machine.",
)
@click.option(
    "--compute-capability",
    "compute",
    multiple=True,
    metavar="X.Y",
    help="GPU to build for, such as 8.6; repeat it for several. TensorRT-RTX only. [default: 8.0 and later]",
)
@click.option("--batch", metavar="MIN,OPT,MAX", help="Batch sizes to build for. [default: the bundle's own]")
@click.option(
    "--workspace",
    type=click.IntRange(1),
    metavar="MB",
    help="Most memory for one layer's work.",
)
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    help="More finds faster kernels, slower. TensorRT only.",
)
@click.option(
    "--hardware",
    type=click.Choice(["none", "same-compute-capability", "ampere+"]),
    default="none",
    show_default=True,
    help="Also run on other GPUs: of the same compute capability, or every one from 8.0 on. TensorRT only.",
)
@click.option(
    "--version-compatible",
    is_flag=True,
    help="Also run with later minor versions of the library. TensorRT only.",
)
@click.option("--dla", "dla_core", type=click.IntRange(0), metavar="CORE", help="Use this DLA of a Jetson.")
@click.option("--weakly-typed", is_flag=True, help="Let TensorRT up to 10 choose types itself.")
@click.option(
    "--calibration-cache",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TensorRT's own cache, for --weakly-typed with int8.",
)
@click.option("--rebuild", is_flag=True, help="Build again, in place of engines of the same GPU.")
@click.option("--ignore-memory", is_flag=True, help="Do not ask whether there is memory enough.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def engine_command(bundle: Path, as_json: bool, **given: object) -> None:
    """Build TensorRT engines of every stage of BUNDLE and add them to it.

    \b
    tv-export engine emoji.tv --precision int8
    tv-export engine emoji.tv --precision int8 --target tensorrt-rtx --compute-capability 8.6
    """
    from textual_vision.export.tensorrt.engines import add_engines

    result = add_engines(bundle, _options(given), tell=lambda text: click.echo(text, err=True))
    if as_json:
        import dataclasses

        click.echo(json.dumps(dataclasses.asdict(result)))
    else:
        _show(bundle, result)


@dataclass(frozen=True, kw_only=True)
class EngineJob:
    """The engines that `tv-export build --target` adds to the bundle that it wrote."""

    kind: str
    precisions: tuple[str, ...]
    compute: tuple[str, ...]

    @classmethod
    def for_build(cls, kind: str, precisions: tuple[str, ...], compute: tuple[str, ...]) -> EngineJob:
        """Before any work: BackendMissingError where this machine cannot build for `kind`, UsageError."""
        from textual_vision.export.tensorrt.engines import check_machine

        compute = _compute(compute)
        try:
            check_machine(kind, compute)
        except BackendMissingError as error:
            hint = f"{error.hint}; or leave the engines to the device: --no-engines"
            raise BackendMissingError(error.message, hint) from error
        return cls(kind=kind, precisions=precisions, compute=compute)

    def steps(self, stages: Sequence[str]) -> list[str]:
        """What `add_to` would do, in words."""
        gpus = f" for compute capability {', '.join(self.compute)}" if self.compute else ""
        return [
            f"build {self.kind} engines of {precision}{gpus}: {', '.join(stages)}"
            for precision in self.precisions
        ]

    def add_to(self, bundle: Path) -> tuple[EngineResult, ...]:
        """Builds the engines of every precision; raises what `add_engines` does."""
        from textual_vision.export.tensorrt.builder import EngineSettings
        from textual_vision.export.tensorrt.engines import add_engines
        from textual_vision.export.tensorrt.options import EngineBuildOptions

        done = []
        for precision in self.precisions:
            settings = EngineSettings(precision=precision, compute=self.compute)
            options = EngineBuildOptions(kind=self.kind, settings=settings, timing_folder=_timing_folder())
            done.append(add_engines(bundle, options, tell=lambda text: click.echo(f"  {text}", err=True)))
        return tuple(done)


def _options(given: dict[str, object]) -> EngineBuildOptions:
    from textual_vision.export.tensorrt.builder import EngineSettings
    from textual_vision.export.tensorrt.options import EngineBuildOptions

    workspace, cache = given["workspace"], given["calibration_cache"]
    settings = EngineSettings(
        precision=str(given["precision"]),
        workspace_bytes=workspace * MIB if isinstance(workspace, int) else None,
        compute=_compute(given["compute"]),
        hardware=str(given["hardware"]),
        version_compatible=bool(given["version_compatible"]),
        dla_core=_whole(given["dla_core"]),
        optimization_level=_whole(given["optimization_level"]),
        weakly_typed=bool(given["weakly_typed"]),
    )
    return EngineBuildOptions(
        kind=str(given["target"]),
        settings=settings,
        batch=batch_from_text(str(given["batch"])) if given["batch"] is not None else None,
        rebuild=bool(given["rebuild"]),
        ignore_memory=bool(given["ignore_memory"]),
        calibration_cache=cache.read_bytes() if isinstance(cache, Path) else None,
        timing_folder=_timing_folder(),
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _compute(given: object) -> tuple[str, ...]:
    assert isinstance(given, tuple)
    for version in given:
        major, dot, minor = version.partition(".")
        if not (dot and major.isdecimal() and minor.isdecimal() and version.isascii()):
            raise UsageError(f"--compute-capability {version!r}", "give it as in 8.6")
    return tuple(sorted(set(given)))


def batch_from_text(text: str) -> BatchProfile:
    """The profile in "MIN,OPT,MAX"; UsageError when the text is anything else."""
    from textual_vision.runtime.manifest import BatchProfile

    parts = text.split(",")
    numbers = [int(part) for part in parts if part.isascii() and part.isdecimal() and len(part) < 7]
    if len(parts) != 3 or len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2]:
        raise UsageError(f"--batch {text!r}", "give three rising numbers: --batch MIN,OPT,MAX, such as 1,1,8")
    return BatchProfile(min=numbers[0], opt=numbers[1], max=numbers[2])


def _timing_folder() -> Path | None:
    """Where TensorRT's timings are kept; None, so that they are not, for a user without a home."""
    from textual_vision.runtime.files import cache_folder

    folder = cache_folder()
    return None if folder is None else folder / "timing"


def _show(bundle: Path, result: EngineResult) -> None:
    if result.reused:
        click.echo(f"{bundle} has {result.fingerprint} {result.precision} already; --rebuild builds it again")
        return
    for stage in result.stages:
        click.echo(f"wrote {bundle / stage.file}")
