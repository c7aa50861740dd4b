"""Run graphs with ONNX's own reference implementation, as one more backend to compare.

It is slow, and computes each operator in numpy as the standard defines it. When it agrees, the graph is right
by the standard, not only by the interpretation of one backend.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx
from onnx.reference import ReferenceEvaluator

from textual_vision.export.model.batch import Array, ReferenceBatch
from textual_vision.runtime.errors import TextualVisionError

REFERENCE_BACKEND = "onnx.reference"
# It rounds every partial sum of a float16 graph to float16. No device does, so fp16 is not compared.
REFERENCE_PRECISIONS = ("fp32", "int8")
REFERENCE_SAMPLES = 2  # each takes seconds


class ReferenceSession:
    """A `Session` that runs one graph with the reference implementation."""

    largest_batch: int | None = None

    def __init__(self, graph: bytes, name: str) -> None:
        self._name = name
        self._evaluator = ReferenceEvaluator(onnx.load_from_string(graph))
        self.inputs = frozenset(self._evaluator.input_names)
        self.outputs = frozenset(self._evaluator.output_names)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name; raise TextualVisionError when an operator cannot be computed."""
        names = self._evaluator.output_names
        try:
            values = self._evaluator.run(names, dict(inputs))
        # Its operators are plain numpy functions, whose errors have no common class.
        except (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            problem = f"{self._name}: ONNX's reference implementation failed: {reason}"
            raise TextualVisionError(problem, "leave out --reference") from error
        return dict(zip(names, values, strict=True))


def reference_sessions(graphs: Mapping[str, bytes]) -> dict[str, ReferenceSession]:
    """Return a session of every graph, by its stage's name."""
    return {stage: ReferenceSession(graph, f"{stage}.onnx") for stage, graph in graphs.items()}


def first_samples(
    batches: Sequence[ReferenceBatch], count: int = REFERENCE_SAMPLES
) -> tuple[ReferenceBatch, ...]:
    """Return the first `count` samples of the first batch."""
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
