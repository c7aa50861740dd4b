"""tv-export engine: add TensorRT engines to a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from textual_vision.export.cli.arguments import BATCH_PROFILE
from textual_vision.runtime.errors import BackendMissingError, UsageError

if TYPE_CHECKING:
    from textual_vision.export.tensorrt.engines import EngineResult
    from textual_vision.export.tensorrt.options import EngineBuildOptions

MIB = 1 << 20


@click.command("engine")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--precision", required=True, help="Precision of the bundle's graphs: fp32, fp16 or int8.")
@click.option(
    "--target",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    default="tensorrt",
    show_default=True,
    help="tensorrt builds for this machine's GPU; tensorrt-rtx builds for desktop GPUs on any machine.",
)
@click.option(
    "--compute-capability",
    "compute",
    multiple=True,
    metavar="X.Y",
    help="GPU to build for, such as 8.6; repeat it for several. TensorRT-RTX only. [default: 8.0 and later]",
)
@click.option(
    "--batch-profile",
    type=BATCH_PROFILE,
    metavar="MIN,OPT,MAX",
    help="Smallest, usual and largest batch of the engines. [default: the bundle's]",
)
@click.option(
    "--workspace-mib",
    type=click.IntRange(1),
    metavar="MIB",
    help="Memory limit of one layer, in MiB. [default: all free memory]",
)
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    help="A higher level builds longer and finds faster kernels. TensorRT only.",
)
@click.option(
    "--hardware-compatibility",
    type=click.Choice(["none", "same-compute-capability", "ampere+"]),
    default="none",
    show_default=True,
    help="Other GPUs that the engines also run on: those of the same compute capability, or all from 8.0. "
    "TensorRT only.",
)
@click.option(
    "--version-compatible",
    is_flag=True,
    help="Build engines that later minor versions of the library can run. TensorRT only.",
)
@click.option(
    "--dla", "dla_core", type=click.IntRange(0), metavar="CORE", help="Use this DLA core of a Jetson."
)
@click.option("--weakly-typed", is_flag=True, help="Let TensorRT (up to 10) choose the types of layers.")
@click.option(
    "--calibration-cache",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="TensorRT's calibration cache, for --weakly-typed with int8.",
)
@click.option("--rebuild", is_flag=True, help="Replace existing engines of the same GPU.")
@click.option("--ignore-memory", is_flag=True, help="Skip the check for free memory.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def engine_command(bundle: Path, as_json: bool, **given: Any) -> None:
    """Build TensorRT engines of BUNDLE.

    Every stage gets one, which is added to BUNDLE.

    \b
    tv-export engine emoji.tv --precision int8
    tv-export engine emoji.tv --precision int8 --target tensorrt-rtx --compute-capability 8.6
    """
    from textual_vision.export.cli import printing
    from textual_vision.export.tensorrt.engines import add_engines

    result = add_engines(bundle, _options(given), on_progress=printing.print_progress)
    printing.show_engines(bundle, result, as_json)


@dataclass(frozen=True, kw_only=True)
class EngineJob:
    """The engines that `tv-export build --target` adds to the bundle it has written."""

    kind: str
    precisions: tuple[str, ...]
    compute: tuple[str, ...]

    @classmethod
    def for_build(cls, kind: str, precisions: tuple[str, ...], compute: tuple[str, ...]) -> EngineJob:
        """Return the job for engines of `kind`.

        Raises BackendMissingError when this machine cannot build them, UsageError for an unknown GPU.
        """
        from textual_vision.export.tensorrt.engines import check_machine

        compute = _checked_compute(compute)
        try:
            check_machine(kind, compute)
        except BackendMissingError as error:
            hint = f"{error.hint}; or build the engines later on the device: --no-engines"
            raise BackendMissingError(error.message, hint) from error
        return cls(kind=kind, precisions=precisions, compute=compute)

    def steps(self, stages: Sequence[str]) -> list[str]:
        """Return a description of each step of `add_to`."""
        gpus = f" for compute capability {', '.join(self.compute)}" if self.compute else ""
        return [
            f"build {self.kind} engines of {precision}{gpus}: {', '.join(stages)}"
            for precision in self.precisions
        ]

    def add_to(self, bundle: Path) -> tuple[EngineResult, ...]:
        """Build the engines of every precision; raises what `add_engines` raises."""
        from textual_vision.export.cli.printing import print_progress
        from textual_vision.export.tensorrt.builder import EngineSettings
        from textual_vision.export.tensorrt.engines import add_engines
        from textual_vision.export.tensorrt.options import EngineBuildOptions

        results = []
        for precision in self.precisions:
            settings = EngineSettings(precision=precision, compute=self.compute)
            options = EngineBuildOptions(kind=self.kind, settings=settings, timing_folder=_timing_folder())
            results.append(add_engines(bundle, options, on_progress=print_progress))
        return tuple(results)


def _options(given: dict[str, Any]) -> EngineBuildOptions:
    """Return the library's options; raises UsageError for an ill-formed compute capability."""
    from textual_vision.export.tensorrt.builder import EngineSettings
    from textual_vision.export.tensorrt.options import EngineBuildOptions

    workspace, cache = given["workspace_mib"], given["calibration_cache"]
    settings = EngineSettings(
        precision=given["precision"],
        workspace_bytes=None if workspace is None else workspace * MIB,
        compute=_checked_compute(given["compute"]),
        hardware_compatibility=given["hardware_compatibility"],
        version_compatible=given["version_compatible"],
        dla_core=given["dla_core"],
        optimization_level=given["optimization_level"],
        weakly_typed=given["weakly_typed"],
    )
    return EngineBuildOptions(
        kind=given["target"],
        settings=settings,
        batch_profile=given["batch_profile"],
        rebuild=given["rebuild"],
        ignore_memory=given["ignore_memory"],
        calibration_cache=None if cache is None else cache.read_bytes(),
        timing_folder=_timing_folder(),
    )


def _checked_compute(versions: tuple[str, ...]) -> tuple[str, ...]:
    """Return the compute capabilities, sorted; raises UsageError unless each looks like 8.6."""
    for version in versions:
        major, dot, minor = version.partition(".")
        if not (dot and major.isdecimal() and minor.isdecimal() and version.isascii()):
            raise UsageError(
                f"--compute-capability {version!r} is no version", "write it as MAJOR.MINOR, such as 8.6"
            )
    return tuple(sorted(set(versions)))


def _timing_folder() -> Path:
    from textual_vision.runtime.files import cache_folder

    return cache_folder("timing")
