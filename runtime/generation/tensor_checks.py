"""Check a stage's tensors against the manifest: dtypes, shapes, and the range of codes.

A backend computes whatever a graph says. The checks run before the next stage, or the caller, gets the
outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from textual_vision.runtime.backends.session import Array
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.manifest import StageSpec, TensorSpec

AGAIN_HINT = "export the bundle again"


def sizes_of(stage: StageSpec, tensors: Mapping[str, Array]) -> dict[str, int]:
    """The size of each dimension that varies, by its name in the manifest ("batch", "tokens").

    Raises IntegrityError when two tensors disagree, or a tensor is not as the manifest says.
    """
    sizes: dict[str, int] = {}
    for spec in stage.inputs:
        _match(stage, spec, tensors[spec.name], sizes)
    return sizes


def check_inputs(stage: StageSpec, inputs: Mapping[str, Array]) -> None:
    """Raise UsageError unless a caller's `inputs` have the manifest's types, shapes and ranges."""
    sizes: dict[str, int] = {}
    for spec in stage.inputs:
        tensor: object = inputs[spec.name]
        if not isinstance(tensor, np.ndarray):
            problem = f"stage {stage.name!r}: {spec.name!r} is a {type(tensor).__name__}"
            raise UsageError(problem, "give a numpy array")
        try:
            _match(stage, spec, tensor, sizes)
            _check_range(stage, spec, tensor)
        except IntegrityError as error:
            raise UsageError(error.message, "`tv-export inspect` shows types and shapes") from None


def check_outputs(stage: StageSpec, outputs: Mapping[str, Array], sizes: dict[str, int]) -> None:
    """Raise IntegrityError unless `outputs` have the manifest's types, shapes and ranges, for `sizes`."""
    for spec in stage.outputs:
        _match(stage, spec, outputs[spec.name], sizes)
        _check_range(stage, spec, outputs[spec.name])


def _match(stage: StageSpec, spec: TensorSpec, tensor: Array, sizes: dict[str, int]) -> None:
    if len(tensor.shape) == len(spec.shape):
        for name, size in zip(spec.shape, tensor.shape, strict=True):
            if isinstance(name, str):
                sizes.setdefault(name, size)
    expected = [sizes.get(one, one) if isinstance(one, str) else one for one in spec.shape]
    if tensor.dtype.name != spec.dtype or list(tensor.shape) != expected:
        found = f"{tensor.dtype} {list(tensor.shape)}"
        problem = f"stage {stage.name!r}: {spec.name!r} is {found}, not {spec.dtype} {expected}"
        raise IntegrityError(problem, AGAIN_HINT)


def _check_range(stage: StageSpec, spec: TensorSpec, tensor: Array) -> None:
    if spec.limit is None or not tensor.size:
        return
    lowest, highest = int(np.min(tensor)), int(np.max(tensor))
    if lowest < 0 or highest >= spec.limit:
        problem = f"stage {stage.name!r}: {spec.name!r} has values from {lowest} to {highest}"
        raise IntegrityError(f"{problem}, not from 0 to {spec.limit - 1}", AGAIN_HINT)
