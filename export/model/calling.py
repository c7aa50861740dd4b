"""Call a stage's module: its inputs by position, its outputs by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from textual_vision.export.model.batch import BATCH, TOKENS
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import StageSpec

HINT = "see docs/how-to/custom-model.md"


class TupleOutputs(nn.Module):
    """A module whose outputs are a mapping, as a tuple in the order of `spec`."""

    def __init__(self, module: nn.Module, spec: StageSpec) -> None:
        super().__init__()
        self.module, self._spec = module, spec
        self.train(module.training)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in the order of the spec."""
        return tuple(outputs_by_name(self._spec, self.module(*inputs)).values())


def run_module(spec: StageSpec, module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Runs the module on copies of its inputs, so that code which works in place changes no other stage's.

    Returns the outputs by name. Raises UsageError when they are not those of `spec`.
    """
    return outputs_by_name(spec, module(*(tensors[one.name].clone() for one in spec.inputs)))


def outputs_by_name(spec: StageSpec, found: object) -> dict[str, Tensor]:
    """What a module returned (a tensor, tuple, list, or mapping by name) by the names of the spec's outputs.

    Raises UsageError, with both lists, when the number or the names differ, or when one is no tensor.
    """
    names = [one.name for one in spec.outputs]
    if isinstance(found, Mapping):
        if set(found) != set(names):
            raise _mismatch(spec, f"returns {_listed(map(str, found))}")
        values: Sequence[object] = [found[name] for name in names]
    else:
        values = found if isinstance(found, (tuple, list)) else (found,)
    if len(values) != len(names):
        raise _mismatch(spec, f"returns {len(values)} outputs ({', '.join(map(_kind, values))})")
    outputs = {}
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, Tensor):
            problem = f"stage {spec.name!r}: the output {name!r} is {_kind(value)}, not a tensor"
            raise UsageError(problem, f"return a tensor, or a tuple, list or dict of tensors; {HINT}")
        outputs[name] = value
    return outputs


def arguments_from_inputs(spec: StageSpec, module: nn.Module, values: Sequence[Any]) -> tuple[Any, ...]:
    """`values`, one per input of the spec, grouped as the arguments of the module's `forward`.

    What `*inputs` takes is one tuple. Raises UsageError when `forward` does not take that many.
    """
    try:
        bound = inspect.signature(module.forward).bind(*values)
    except TypeError as error:
        takes = f"{type(module).__name__}.forward{inspect.signature(module.forward)}"
        names = _listed(one.name for one in spec.inputs)
        problem = f"stage {spec.name!r}: {takes} does not take the inputs of its spec, {names}: {error}"
        raise UsageError(
            problem, f"name the arguments of forward, in its order, in the StageSpec; {HINT}"
        ) from None
    return tuple(bound.arguments.values())


def check_order(spec: StageSpec, module: nn.Module) -> None:
    """UsageError when `forward` has the arguments that the spec names, but in another order."""
    names = [one.name for one in spec.inputs]
    arguments = list(inspect.signature(module.forward).parameters)[: len(names)]
    if arguments != names and set(arguments) == set(names):
        problem = f"stage {spec.name!r}: forward takes {_listed(arguments)}, the spec says {_listed(names)}"
        raise UsageError(problem, "inputs are passed by position: bring both into the same order")


def open_sizes(spec: StageSpec) -> list[dict[int, str]]:
    """Of each input the axes whose size is open, with the size's name."""
    return [
        {axis: size for axis, size in enumerate(one.shape) if size in (BATCH, TOKENS)} for one in spec.inputs
    ]


def _mismatch(spec: StageSpec, found: str) -> UsageError:
    problem = f"stage {spec.name!r} {found}; its spec names {_listed(one.name for one in spec.outputs)}"
    return UsageError(problem, f"the spec's outputs are those of forward, in its order; {HINT}")


def _listed(names: Iterator[str] | Sequence[str]) -> str:
    return f"({', '.join(names)})"


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
