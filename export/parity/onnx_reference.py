"""ONNX's own reference implementation as a backend of the comparison: slow, and nobody else's code.

It computes each operator in numpy as the standard's text says, so that where ONNX Runtime and OpenVINO agree
with it, the graph means what PyTorch computed, and not only what one backend makes of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx
from onnx.reference import ReferenceEvaluator

from textual_vision.export.model.batch import Array, ReferenceBatch
from textual_vision.runtime.errors import TextualVisionError

REFERENCE_BACKEND = "onnx.reference"
# Of half graphs it keeps every partial sum in half, which no device does: what it gives says nothing of them.
REFERENCE_PRECISIONS = ("fp32", "int8")
REFERENCE_SAMPLES = 2  # it takes seconds a picture


class ReferenceSession:
    """One graph by the reference implementation; a `Session`."""

    largest_batch: int | None = None

    def __init__(self, graph: bytes, name: str) -> None:
        self._name = name
        self._evaluator = ReferenceEvaluator(onnx.load_from_string(graph))
        self.inputs = frozenset(self._evaluator.input_names)
        self.outputs = frozenset(self._evaluator.output_names)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name; TextualVisionError when it cannot compute an operator."""
        names = self._evaluator.output_names
        try:
            values = self._evaluator.run(names, dict(inputs))
        # Its operators are plain numpy functions: what they raise has no common class of its own.
        except (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            problem = f"{self._name}: ONNX's reference implementation cannot compute it: {reason}"
            raise TextualVisionError(problem, "leave out --reference") from error
        return dict(zip(names, values, strict=True))


def reference_sessions(graphs: Mapping[str, bytes]) -> dict[str, ReferenceSession]:
    """Every graph by its stage's name."""
    return {stage: ReferenceSession(graph, f"{stage}.onnx") for stage, graph in graphs.items()}


def first_samples(
    batches: Sequence[ReferenceBatch], count: int = REFERENCE_SAMPLES
) -> tuple[ReferenceBatch, ...]:
    """The first `count` samples of the first batch."""
    first = batches[0]
    return (
        dataclasses.replace(
            first,
            prompts=first.prompts[:count],
            seeds=first.seeds[:count],
            tensors={name: value[:count] for name, value in first.tensors.items()},
            margins={name: value[:count] for name, value in first.margins.items()},
        ),
    )
