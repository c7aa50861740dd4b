"""The options of a verification, and the defaults of its two levels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textual_vision.runtime.errors import UsageError, choice_hint

MAX = "max"


@dataclass(frozen=True, kw_only=True)
class Level:
    """The amount of work: `samples` whole pictures, `forced` pictures per stage, and batch sizes.

    `allowance` is the largest share of bad pictures that the upper confidence bound may reach. `merged` is
    the number of pictures of pipeline.onnx. `tables_everywhere` sweeps the tables on every backend, not only
    the first. `reference` also runs half graphs with ONNX's reference implementation.
    """

    samples: int
    forced: int
    merged: int
    batches: tuple[int | str, ...]
    allowance: float
    tables_everywhere: bool
    reference: bool


LEVELS = {
    "quick": Level(
        samples=32,
        forced=16,
        merged=4,
        batches=(1, MAX),
        allowance=0.10,
        tables_everywhere=False,
        reference=False,
    ),
    "release": Level(
        samples=128,
        forced=48,
        merged=32,
        batches=(1, 4, MAX),
        allowance=0.05,
        tables_everywhere=True,
        reference=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """The options of `tv-export verify`; its help describes them. None and () are the level's defaults."""

    checkpoint: str | None = None
    precisions: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    required_precisions: tuple[str, ...] = ()
    required_backends: tuple[str, ...] = ()
    level: str = "quick"
    prompts: tuple[str, ...] | None = None
    samples: int | None = None
    batches: tuple[int | str, ...] = ()
    seed: int = 0
    baseline: Path | None = None
    merge: tuple[Path, ...] = ()
    threads: int = 1

    @property
    def defaults(self) -> Level:
        """The level; raises UsageError for an unknown one."""
        if self.level not in LEVELS:
            raise UsageError(f"unknown level {self.level!r}", choice_hint(self.level, LEVELS))
        return LEVELS[self.level]

    @property
    def count(self) -> int:
        """The number of whole pictures."""
        return self.samples or self.defaults.samples

    def batch_sizes(self, largest: int) -> tuple[int, ...]:
        """Return the batch sizes, ascending, none above `largest`, the batch profile's maximum."""
        sizes = self.batches or self.defaults.batches
        return tuple(sorted({largest if one == MAX else min(int(one), largest) for one in sizes}))


def batches_from_text(text: str) -> tuple[int | str, ...]:
    """Return the batch sizes in "1,4,max"; raises UsageError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    found = tuple(MAX if part == MAX else int(part) for part in parts if part == MAX or _is_size(part))
    if len(found) != len(parts) or not found:
        raise UsageError(f"--batch {text!r} is no list of batch sizes", "give sizes or max: --batch 1,4,max")
    return found


def _is_size(part: str) -> bool:
    return part.isascii() and part.isdecimal() and 1 <= len(part) <= 6 and int(part) > 0
