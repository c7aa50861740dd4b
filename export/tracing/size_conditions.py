"""Conditions on open sizes that torch's exporter cannot prove, tried for every size that there is.

Code that takes `x[:, tokens // 2]` holds for any number of tokens, but torch's exporter does not see that and
refuses it. A prompt's number of tokens is small, so that each can be tried.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

TRACING_ERRORS = (torch._dynamo.exc.TorchDynamoException, RuntimeError, ValueError, TypeError)
Axes = Sequence[Mapping[int, str]]  # of each input: the axes whose size is open, with the size's name


def program_of_all_sizes(
    module: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    shapes: tuple[Any, ...],
    axes: Axes,
    sizes: Mapping[str, Sequence[int]],
) -> torch.export.ExportedProgram | None:
    """The traced program if the conditions that its code sets hold for all `sizes`, by name, else None."""
    try:
        program = torch.export.export(
            module, inputs, dynamic_shapes=shapes, prefer_deferred_runtime_asserts_over_guards=True
        )
    except TRACING_ERRORS:  # as in the first attempt, whose error is told
        return None
    names = _names_of_symbols(program, axes)
    holds = all(_holds(condition, names, sizes) for condition in _conditions(program))
    return program if holds else None


def _names_of_symbols(program: torch.export.ExportedProgram, axes: Axes) -> dict[Any, str]:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    names = {}
    for name, open_axes in zip(program.graph_signature.user_inputs, axes, strict=True):
        value = values[str(name)]
        for axis, size in open_axes.items():
            length: Any = value.shape[axis] if isinstance(value, torch.Tensor) else None
            if isinstance(length, torch.SymInt):
                names[length.node.expr] = size
    return names


def _conditions(program: torch.export.ExportedProgram) -> Iterator[Any]:
    """What the program asserts of its sizes, as expressions of sympy."""
    for node in program.graph.nodes:
        if node.target is torch.ops.aten._assert_scalar.default:
            value = node.args[0].meta.get("val") if isinstance(node.args[0], torch.fx.Node) else node.args[0]
            yield value.node.expr if isinstance(value, torch.SymBool) else value


def _holds(condition: Any, names: Mapping[Any, str], sizes: Mapping[str, Sequence[int]]) -> bool:
    symbols = sorted(getattr(condition, "free_symbols", ()), key=str)
    if not symbols:
        return bool(condition)
    if not set(symbols) <= set(names):  # a size that depends on values
        return False
    tried = itertools.product(*(sizes[names[symbol]] for symbol in symbols))
    return all(bool(condition.subs(dict(zip(symbols, values, strict=True)))) for values in tried)
