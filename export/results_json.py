"""Results from JSON, as kept steps need them back; `dataclasses.asdict` is the other direction."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from textual_vision.export.results import (
    CodeMetrics,
    FloatMetrics,
    ImageMetrics,
    RewriteResult,
    StageParity,
    TensorMetrics,
)

METRICS = (CodeMetrics, FloatMetrics, ImageMetrics)


def bytes_from_results(results: Sequence[StageParity | RewriteResult]) -> bytes:
    """JSON of any results."""
    return json.dumps([dataclasses.asdict(result) for result in results]).encode()


def parity_from_bytes(data: bytes) -> tuple[StageParity, ...]:
    """What `bytes_from_results` was given."""
    return tuple(
        StageParity(
            **{**one, "tensors": {name: _metrics_from_json(value) for name, value in one["tensors"].items()}}
        )
        for one in json.loads(data)
    )


def rewrites_from_bytes(data: bytes) -> tuple[RewriteResult, ...]:
    """What `bytes_from_results` was given."""
    return tuple(RewriteResult(**one) for one in json.loads(data))


def _metrics_from_json(value: dict[str, Any]) -> TensorMetrics:
    for kind in METRICS:
        if set(value) == {field.name for field in dataclasses.fields(kind)}:
            return kind(**value)
    raise AssertionError(f"figures of no known kind: {sorted(value)}")
