"""Choose what engines are built for: GPUs, and the shapes of each input."""

from __future__ import annotations

from typing import Any

from textual_vision.export.tensorrt.builder import EngineSettings
from textual_vision.runtime.backends.tensorrt.cudart import Device
from textual_vision.runtime.engines import Fingerprint, ShapeRange, jetpack_release
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import BatchProfile, StageSpec, TextSpec

MINIMUM_TOKENS = 2  # the two special tokens of an empty prompt
RTX_DEFAULT_COMPUTE = ("8.0",)


def fingerprint_to_build(trt: Any, kind: str, settings: EngineSettings, device: Device | None) -> Fingerprint:
    """Return the fingerprint of the engines: for this machine's GPU, or for the GPUs in `settings`.

    Without named GPUs, TensorRT-RTX builds one engine for every GPU from compute capability 8.0.
    """
    compute, compatibility = settings.compute, settings.hardware_compatibility
    if not compute and kind == "tensorrt-rtx":
        compute, compatibility = RTX_DEFAULT_COMPUTE, "ampere+"
    elif not compute:
        assert device is not None
        compute = (device.compute,)
    return Fingerprint(
        kind=kind,
        library=trt.__version__,
        compute=compute,
        compatibility=compatibility,
        version_compatible=settings.version_compatible,
        driver=device.driver if device is not None else None,
        jetpack=jetpack_release(),
    )


def profile_of(stage: StageSpec, batch: BatchProfile, text: TextSpec | None) -> dict[str, ShapeRange]:
    """Return the smallest, usual and largest shape of each input of a stage, by its name."""
    max_tokens = 1 if text is None else text.max_tokens  # without a prompt no shape has tokens
    fixed_length = text is not None and text.fixed_length
    tokens = {"min": min(MINIMUM_TOKENS, max_tokens), "opt": max(2, max_tokens // 2), "max": max_tokens}
    sizes = {
        which: {
            "batch": getattr(batch, which),
            "tokens": max_tokens if fixed_length else min(tokens[which], max_tokens),
        }
        for which in tokens
    }
    return {
        spec.name: ShapeRange(
            **{
                which: tuple(_size(stage, spec.name, dimension, known) for dimension in spec.shape)
                for which, known in sizes.items()
            }
        )
        for spec in stage.inputs
    }


def _size(stage: StageSpec, name: str, dimension: int | str, known: dict[str, int]) -> int:
    if isinstance(dimension, int):
        return dimension
    if dimension not in known:
        problem = f"stage {stage.name!r}: {name!r} varies in {dimension!r}"
        raise UsageError(problem, f"an engine can only vary in {' and '.join(known)}")
    return known[dimension]
