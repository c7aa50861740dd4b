"""Command-line values that several commands parse alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from textual_vision.runtime.errors import UsageError

if TYPE_CHECKING:
    from textual_vision.runtime.manifest import BatchProfile

CALIBRATION_METHOD = click.Choice(["auto", "minmax", "entropy", "percentile", "mse"])
MAX_DIGITS = 6  # of a batch size


class BatchProfileType(click.ParamType):  # type: ignore[type-arg]
    """An option's value MIN,OPT,MAX, converted to a BatchProfile."""

    name = "batch profile"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> BatchProfile | None:
        """Return the profile in `value`; raises UsageError when the text holds none."""
        return batch_profile_from_text(value) if isinstance(value, str) else value


BATCH_PROFILE = BatchProfileType()


def batch_profile_from_text(text: str) -> BatchProfile:
    """Return the profile in "MIN,OPT,MAX"; raises UsageError unless 1 <= MIN <= OPT <= MAX."""
    from textual_vision.runtime.manifest import BatchProfile

    parts = [part.strip() for part in text.split(",")]
    # `isdecimal` alone accepts the digits of other scripts.
    sizes = [int(p) for p in parts if p.isascii() and p.isdecimal() and len(p) <= MAX_DIGITS]
    if len(parts) != 3 or len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        hint = "give three rising numbers: --batch-profile MIN,OPT,MAX, such as 1,1,8"
        raise UsageError(f"--batch-profile {text!r} is no batch profile", hint)
    return BatchProfile(min=sizes[0], opt=sizes[1], max=sizes[2])


def numbers_from_text(text: str, option: str, low: float, high: float, example: str) -> tuple[float, ...]:
    """Return the comma-separated numbers in `text`; raises UsageError unless each is from `low` to `high`."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(low <= number <= high for number in found):
        problem = f"{option} {text!r} is not a list of numbers from {low:g} to {high:g}"
        raise UsageError(problem, f"separate the numbers by commas, for example {option} {example}")
    return found
