"""The steps of a build in words, for `tv-export build --dry-run`."""

from __future__ import annotations

from collections.abc import Sequence

from textual_vision.export.build.calibration import calibration_count
from textual_vision.export.build.options import BuildOptions
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.parity.onnx_reference import REFERENCE_BACKEND, REFERENCE_PRECISIONS
from textual_vision.export.sessions.opening import usable_backends


def plan(options: BuildOptions, model: StagedModel) -> list[str]:
    """Return the steps that `build` would take for a model."""
    stages = [stage.name for stage in model.stages]
    steps = [f"generate {options.samples} reference pictures with PyTorch"]
    offered = len(options.calibration_prompts)
    count = calibration_count(model, options.calibration_count)
    if offered > count and options.calibrates:
        steps.append(f"choose {count} of {offered} calibration prompts")
    steps += [f"export {stage}, opset {options.opset}" for stage in stages]
    steps += [f"rewrite {stage} for {options.target}" for stage in stages]
    for precision in options.precisions:
        merged = " and merge its stages" if options.merged else ""
        backends = ", ".join(backends_of_options(options, (precision,)))
        steps += [f"convert to {precision}{merged}", f"compare {precision} on {backends}"]
    return [*steps, "write the report", "write the bundle"]


def backends_of_options(options: BuildOptions, precisions: Sequence[str]) -> tuple[str, ...]:
    """Return the backends that compare graphs of these precisions; the first one's times are reported."""
    reference = options.reference and not set(REFERENCE_PRECISIONS).isdisjoint(precisions)
    return (*usable_backends(), *([REFERENCE_BACKEND] if reference else []))
