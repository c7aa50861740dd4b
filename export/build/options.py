"""Options of a build, and the check that they make sense together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from textual_vision.calibration.cache import read_cache
from textual_vision.calibration.ranges import AUTO, check_method
from textual_vision.export.build.calibration import CALIBRATION_PROMPTS
from textual_vision.export.graph.opset import check_opset
from textual_vision.export.int8.budget import parse_budget
from textual_vision.export.model.prompts import CALIBRATED, COMPARED
from textual_vision.export.passes.manager import check_rewrites
from textual_vision.export.precision.registry import check_precision
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import BatchProfile


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What `tv-export build` can be told; see its help. `prompt_length` None leaves it open."""

    precisions: tuple[str, ...] = ("fp32",)
    opset: int = 20
    batch_profile: BatchProfile = field(default_factory=lambda: BatchProfile(min=1, opt=1, max=8))
    prompt_length: int | None = None
    samples: int = 32
    seed: int = 0
    prompts: tuple[str, ...] = COMPARED
    calibration_prompts: tuple[str, ...] = CALIBRATED
    calibration_random: bool = False
    calibration_count: int = CALIBRATION_PROMPTS
    ranges: Path | None = None
    target: str = "cpu"
    no_rewrite: tuple[str, ...] = ()
    int8_tolerance: str | None = None
    calibration_method: str = AUTO
    reference: bool = False
    merged: bool = True
    force: bool = False
    allow_failing: bool = False


def check_options(options: BuildOptions) -> None:
    """UsageError when the options make no sense, before any work is done."""
    check_opset(options.opset)
    check_rewrites(options.no_rewrite, options.target)
    if not options.precisions:
        raise UsageError("no precision", "give at least one: --precision fp32")
    for name in options.precisions:
        check_precision(name)
    if options.int8_tolerance is not None:
        parse_budget(options.int8_tolerance)
    check_method(options.calibration_method)
    if options.calibration_count < 1:
        raise UsageError("no prompt to calibrate on", "give at least one: --calibration-count 64")
    if options.ranges is not None:
        if "int8" not in options.precisions:
            raise UsageError("--ranges without int8 to use it", "add --precision int8")
        read_cache(options.ranges, None)
    batch = options.batch_profile
    if not 1 <= batch.min <= batch.opt <= batch.max:
        problem = f"batch profile {batch.min},{batch.opt},{batch.max} is out of order"
        raise UsageError(problem, "give MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX: --batch-profile 1,1,8")
    if options.samples < 2:
        raise UsageError(f"{options.samples} samples", "compare on 2 or more: --samples 32")
