"""A traced program as an ONNX graph, without tracing it anew.

Before torch translates a program it decomposes what has no translation, for which it traces all operations
two more times, and inserts casts, for which it runs them all once more, on tensors without values: three
quarters of the time that the latent network's 2,000 operations took. Where all have a translation there is
nothing to decompose, and what operations give is known since they were traced.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops import core, nn
from torch.onnx._internal.exporter import _fx_passes
from torch.onnx._internal.exporter._registration import ONNXRegistry
from torch.onnx._internal.fx.passes import type_promotion

OPSET_OF_ATTENTION = 23
Translations = dict[Callable[..., object], Callable[..., object]]


def translations(opset: int) -> Translations:
    """Operators that torch would decompose first, or would not export as ONNX Runtime wants them.

    Only those whose inputs need no casts: torch knows which do by what it decomposes operators into.
    From opset 23 on torch writes attention as one operator, its mask one row for all queries: ONNX allows it,
    ONNX Runtime refuses it. As products and a softmax it runs everywhere, and rewrites see into it.
    """
    aten = torch.ops.aten
    found: Translations = {
        aten.to.dtype: core.aten__to_copy,
        aten.numpy_T.default: op.Transpose,
        aten.square.default: _squared,
        aten.unflatten.int: _unflattened,
    }
    if opset >= OPSET_OF_ATTENTION:
        found[aten.scaled_dot_product_attention.default] = nn.aten_scaled_dot_product_attention
    return found


def _squared(x: Any) -> Any:
    return op.Mul(x, x)


def _unflattened(x: Any, dim: int, sizes: Sequence[Any]) -> Any:
    """In torch's own translation nothing is constant: it cuts the shape of `x`, known or not, in pieces."""
    dim %= len(x.shape)
    after = list(x.shape[dim + 1 :])
    if 0 in [*sizes, *after] or not all(isinstance(size, int) for size in after):
        return core.aten_unflatten(x, dim, sizes)
    before = [0] * dim  # as they are
    if all(isinstance(size, int) for size in sizes):
        return op.Reshape(x, op.Constant(value_ints=[*before, *sizes, *after]))
    first, last = ([op.Constant(value_ints=part)] if part else [] for part in (before, after))
    found = [op.Reshape(size, op.Constant(value_ints=[1])) for size in sizes]
    return op.Reshape(x, op.Concat(*first, *found, *last, axis=0))


@contextlib.contextmanager
def traced_once() -> Iterator[None]:
    """In it, torch.onnx.export decomposes programs that need it only, and casts without running them."""
    decompose = _fx_passes.decompose_with_registry

    def decomposed(program: torch.export.ExportedProgram, registry: ONNXRegistry) -> Any:
        return program if _is_translatable(program, registry) else decompose(program, registry)

    with (
        mock.patch.object(_fx_passes, "decompose_with_registry", decomposed),
        mock.patch.object(type_promotion, "_TypePromotionInterpreter", _Promotion),
    ):
        yield


def _is_translatable(program: torch.export.ExportedProgram, registry: ONNXRegistry) -> bool:
    """Whether it is one graph of operations that write nothing in place and have a translation each."""

    def is_known(target: Any) -> bool:
        if target is operator.getitem:
            return True
        if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
            return False
        return not target._schema.returns or registry.is_registered(target)  # those of none only check

    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return len(list(program.graph_module.modules())) == 1 and all(map(is_known, calls))


class _Promotion(type_promotion._TypePromotionInterpreter):
    """Runs only operations to whose inputs it adds casts: what all others give is known."""

    def run_node(self, n: torch.fx.Node) -> Any:
        if n.op != "call_function" or "val" not in n.meta:  # checks give nothing
            return super().run_node(n)
        with self._set_current_node(n):
            if rule := type_promotion.get_type_promotion_rule(n, self.type_promotion_table):
                self._maybe_promote_node(n, rule)
        return n.meta["val"]
