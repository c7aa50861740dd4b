"""The options of a build, and the check that they fit together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from textual_vision.calibration.cache import read_cache
from textual_vision.calibration.ranges import AUTO, check_method
from textual_vision.export.graph.opset import check_opset
from textual_vision.export.int8.tolerance import parse_tolerance
from textual_vision.export.model.prompts import CALIBRATED, COMPARED
from textual_vision.export.passes.manager import check_rewrites
from textual_vision.export.precision.registry import check_precision
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import BatchProfile


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """The options of `tv-export build`; its help describes them.

    `prompt_length` None exports graphs for prompts of any length. `calibration_count` None is as many prompts
    as `build.calibration.calibration_count` says. `int8_tolerance` None uses the default of
    int8. `ranges` is a calibration cache of an earlier build.
    """

    precisions: tuple[str, ...] = ("fp32",)
    opset: int = 20
    batch_profile: BatchProfile = field(default_factory=lambda: BatchProfile(min=1, opt=1, max=8))
    prompt_length: int | None = None
    samples: int = 32
    seed: int = 0
    prompts: tuple[str, ...] = COMPARED
    calibration_prompts: tuple[str, ...] = CALIBRATED
    calibration_random: bool = False
    calibration_count: int | None = None
    ranges: Path | None = None
    target: str = "cpu"
    no_rewrite: tuple[str, ...] = ()
    int8_tolerance: str | None = None
    calibration_method: str = AUTO
    reference: bool = False
    merged: bool = True
    force: bool = False
    allow_failing: bool = False

    @property
    def calibrates(self) -> bool:
        """Whether a precision needs calibration pictures: all but fp32 do."""
        return bool(set(self.precisions) - {"fp32"})


def check_options(options: BuildOptions) -> None:
    """Raise UsageError when an option is wrong or two contradict each other."""
    check_opset(options.opset)
    check_rewrites(options.no_rewrite, options.target)
    if not options.precisions:
        raise UsageError("no precision was given", "give at least one: --precision fp32")
    for name in options.precisions:
        check_precision(name)
    if options.int8_tolerance is not None:
        parse_tolerance(options.int8_tolerance)
    check_method(options.calibration_method)
    if options.calibration_count is not None and options.calibration_count < 1:
        raise UsageError("no calibration prompts", "give at least one: --calibration-count 64")
    if options.ranges is not None:
        if "int8" not in options.precisions:
            raise UsageError("--ranges has no effect without int8", "add --precision int8")
        read_cache(options.ranges, None)
    batch = options.batch_profile
    if not 1 <= batch.min <= batch.opt <= batch.max:
        problem = f"the batch profile {batch.min},{batch.opt},{batch.max} is out of order"
        raise UsageError(problem, "give MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX: --batch-profile 1,1,8")
    if options.samples < 2:
        raise UsageError(f"{options.samples} samples are too few", "compare 2 or more: --samples 32")
