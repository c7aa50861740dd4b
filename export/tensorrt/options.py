"""The options of `tv-export engine`, and the check that existing engines were built with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from textual_vision.export.tensorrt.builder import EngineSettings
from textual_vision.export.tensorrt.targets import profile_of
from textual_vision.runtime.engines import EngineRecord, check_kind
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import BatchProfile, Manifest

IN_FINGERPRINT = ("precision", "compute", "hardware_compatibility", "version_compatible", "dla_core")
RTX = "tensorrt-rtx"


@dataclass(frozen=True, kw_only=True)
class EngineBuildOptions:
    """What `tv-export engine` can be told; `batch_profile` None is the manifest's, `settings` go to the
    builder.

    `calibration_cache` is TensorRT's format, for weakly typed INT8. `timing_folder` None keeps no timing
    cache.
    """

    kind: str
    settings: EngineSettings
    batch_profile: BatchProfile | None = None
    rebuild: bool = False
    ignore_memory: bool = False
    calibration_cache: bytes | None = None
    timing_folder: Path | None = None


def check_options(options: EngineBuildOptions) -> None:
    """Raise UsageError when options contradict each other or would have no effect."""
    check_kind(options.kind)
    settings = options.settings
    if options.calibration_cache is not None and not (settings.weakly_typed and settings.precision == "int8"):
        raise UsageError(
            "--calibration-cache is for --weakly-typed with int8 alone", "leave it out, or add --weakly-typed"
        )
    if options.kind != RTX:
        return
    # TensorRT-RTX accepts a level without effect, and has none of the other options.
    for name, given in (
        ("--optimization-level", settings.optimization_level is not None),
        ("--hardware-compatibility", settings.hardware_compatibility != "none"),
        ("--version-compatible", settings.version_compatible),
        ("--dla", settings.dla_core is not None),
    ):
        if given:
            raise UsageError(f"{name} is for TensorRT; TensorRT-RTX has no such option", "leave it out")


def check_reused(record: EngineRecord, options: EngineBuildOptions, manifest: Manifest) -> None:
    """Raise UsageError when the engines of `record` were built with other options than the requested."""
    if wrong := list(_differences(record, options, manifest)):
        problem = (
            f"the bundle's {record.fingerprint.name} {record.precision} engines were built with other options"
        )
        raise UsageError(f"{problem}: {'; '.join(wrong)}", "replace them with --rebuild")


def _differences(record: EngineRecord, options: EngineBuildOptions, manifest: Manifest) -> Iterator[str]:
    asked = settings_as_text(options.settings)
    for name, value in asked.items():
        if (was := record.settings.get(name, "none")) != value:
            yield f"{name} {was}, requested {value}"
    core = options.settings.dla_core
    if record.dla_core != core:
        yield f"DLA {_or_none(record.dla_core)}, requested {_or_none(core)}"
    if options.batch_profile is not None:
        for stage in manifest.stages:
            profile = profile_of(stage, options.batch_profile, manifest.text)
            built = record.stages[stage.name].profile if stage.name in record.stages else {}
            if built != profile:
                wanted = options.batch_profile
                yield f"{stage.name} is not for batches of {wanted.min} to {wanted.max}"


def _or_none(core: int | None) -> str:
    return "none" if core is None else str(core)


def settings_as_text(settings: EngineSettings) -> dict[str, str]:
    """Return the given settings that are not in the fingerprint, for engine.json."""
    return {
        name: str(value)
        for name, value in dataclasses.asdict(settings).items()
        if value not in (None, False) and name not in IN_FINGERPRINT
    }
