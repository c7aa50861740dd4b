"""Ranges on disk with the digest of all they depend on: a cache that belongs to something else is refused."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from textual_vision.calibration.ranges import METHODS, scale_from_threshold
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.files import write_atomic
from textual_vision.runtime.strict_json import dataclass_from_json, json_from_bytes, json_from_dataclass

SCHEMA_VERSION = 1
CACHE_LIMIT_BYTES = 64 << 20
AGAIN_HINT = "calibrate again: delete the file, or give another --ranges"


@dataclass(frozen=True, kw_only=True)
class TensorRange:
    """One activation: `threshold` becomes ±127; `method` chose it; `low` and `high` were seen.

    Where `low` equals `high`, the activation never varied in the calibration.
    """

    threshold: float
    method: str
    low: float
    high: float

    @property
    def is_constant(self) -> bool:
        """Whether the activation never varied, so that `threshold` says nothing about other inputs."""
        return self.low == self.high

    @property
    def scale(self) -> float:
        """The float32 step."""
        return scale_from_threshold(self.threshold)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What ranges depend on, each as a SHA-256: prompts with seeds, tokenizer, noise recipe, float graphs."""

    prompts: str
    tokenizer: str
    preprocessing: str
    model: str

    @property
    def digest(self) -> str:
        """One SHA-256 of all: the cache's name."""
        return _sha256([self.prompts, self.tokenizer, self.preprocessing, self.model])


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A cache file: `ranges[stage][tensor]`."""

    schema_version: int
    origin: Origin
    samples: int
    ranges: dict[str, dict[str, TensorRange]]

    def scales(self, stage: str) -> dict[str, float]:
        """Tensor → float32 scale, for TensorRT's own cache format."""
        return {tensor: found.scale for tensor, found in self.ranges[stage].items()}


def origin_of(
    prompts: Sequence[str],
    seeds: Sequence[int],
    tokenizer: bytes,
    preprocessing: object,
    graphs: Mapping[str, bytes],
) -> Origin:
    """The digests; `preprocessing` is what else decides the inputs (noise recipe, length limit), as JSON."""
    model = [[stage, hashlib.sha256(graph).hexdigest()] for stage, graph in sorted(graphs.items())]
    return Origin(
        prompts=_sha256([list(prompts), list(seeds)]),
        tokenizer=hashlib.sha256(tokenizer).hexdigest(),
        preprocessing=_sha256(preprocessing),
        model=_sha256(model),
    )


def write_cache(calibration: Calibration, path: Path) -> None:
    """Write the cache as JSON, whole or not at all."""
    write_atomic(path, bytes_from_calibration(calibration))


def bytes_from_calibration(calibration: Calibration) -> bytes:
    """The cache as JSON."""
    text = json.dumps(json_from_dataclass(calibration), indent=1, allow_nan=False)
    return f"{text}\n".encode()


def read_cache(path: Path, expected: Origin | None) -> Calibration:
    """The cache at `path`, which must come from `expected` (None: from anything).

    Raises UsageError when there is no such file, IntegrityError when it is damaged, says impossible things,
    or was made for other prompts, another tokenizer, preprocessing or model: the message says which.
    """
    if not path.is_file():
        raise UsageError(f"no calibration cache {path}", "leave the option out to calibrate now")
    if path.stat().st_size > CACHE_LIMIT_BYTES:
        raise IntegrityError(f"{path}: larger than {CACHE_LIMIT_BYTES} bytes", AGAIN_HINT)
    calibration = dataclass_from_json(
        Calibration, json_from_bytes(path.read_bytes(), path.name), "calibration"
    )
    if calibration.schema_version != SCHEMA_VERSION:
        problem = (
            f"{path}: schema_version is {calibration.schema_version}, this version reads {SCHEMA_VERSION}"
        )
        raise IntegrityError(problem, AGAIN_HINT)
    for stage, ranges in calibration.ranges.items():
        for tensor, found in ranges.items():
            _check_range(found, f"{path.name}: {stage}: {tensor}")
    if expected is not None:
        _check_origin(calibration.origin, expected, path)
    return calibration


def _check_range(found: TensorRange, where: str) -> None:
    if not (math.isfinite(found.threshold) and found.threshold > 0 and found.low <= found.high):
        raise IntegrityError(f"{where}: no range ({found.threshold}, {found.low} … {found.high})", AGAIN_HINT)
    if found.method not in METHODS:
        raise IntegrityError(f"{where}: unknown method {found.method!a}", AGAIN_HINT)


def _check_origin(found: Origin, expected: Origin, path: Path) -> None:
    for name, words in (
        ("model", "of another model"),
        ("tokenizer", "of another tokenizer"),
        ("preprocessing", "of another preprocessing"),
        ("prompts", "of other prompts or seeds"),
    ):
        ours, theirs = getattr(expected, name), getattr(found, name)
        if ours != theirs:
            raise IntegrityError(f"{path} is {words} ({theirs[:12]!a}, here {ours[:12]!r})", AGAIN_HINT)


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
