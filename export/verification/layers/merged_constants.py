"""Compare the constants of pipeline.onnx with those of the stages that it was merged from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

MIN_VALUES = 16  # smaller constants are compared by their effect alone
MIN_MATCH = 0.5  # share of equal rows that makes two constants the same table

Array = npt.NDArray[Any]


def changed_constants(pipeline: bytes, stages: Sequence[bytes]) -> dict[str, tuple[int, ...]]:
    """Return the constants of the pipeline that are nearly one of the stages', with the rows that differ.

    A constant that resembles none is left out: a graph that was optimized again folds and transposes some.
    """
    known: dict[tuple[str, tuple[int, ...]], dict[bytes, Array]] = {}
    for graph in stages:
        for _, value in _constants(graph):
            known.setdefault(_kind(value), {})[value.tobytes()] = value
    changed = {}
    for name, value in _constants(pipeline):
        alike = known.get(_kind(value), {})
        if value.tobytes() not in alike:
            wrong = min((_different_rows(value, one) for one in alike.values()), key=len, default=None)
            if wrong is not None and len(wrong) <= (1 - MIN_MATCH) * len(value):
                changed[name] = tuple(wrong.tolist())
    return changed


def _constants(graph: bytes) -> Iterator[tuple[str, Array]]:
    for tensor in onnx.load_from_string(graph).graph.initializer:
        if int(np.prod(tensor.dims)) >= MIN_VALUES:
            yield tensor.name, numpy_helper.to_array(tensor)


def _kind(value: Array) -> tuple[str, tuple[int, ...]]:
    return str(value.dtype), value.shape


def _different_rows(first: Array, second: Array) -> npt.NDArray[np.intp]:
    differs = first.reshape(len(first), -1) != second.reshape(len(second), -1)
    return np.flatnonzero(differs.any(1))
