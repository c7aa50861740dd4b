"""Translate a traced program to ONNX without tracing it again; patches private functions of torch.

Before torch translates a program, it decomposes operators without a translation, which traces all operators
two more times. Then it inserts casts, which runs them once more on fake tensors. Together that took three
quarters of the export of the latent network's 2,000 operators. Where all operators have a translation,
nothing needs decomposing, and the first trace already recorded every operator's output.
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

from textual_vision.export.graph.opset import OPSET_OF_EXPORTER

OPSET_OF_ATTENTION = 23
Translations = dict[Callable[..., object], Callable[..., object]]


def translations(opset: int) -> Translations:
    """Return translations of operators that torch would decompose, or would export in a form that fails.

    They cover operators whose inputs need no casts: torch finds the others by their decomposition. From
    opset 23 on torch exports attention as one operator, whose mask has one row for all queries. ONNX allows
    that, ONNX Runtime rejects it. As products and a softmax it runs everywhere, and rewrites apply to it.
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
    """Use constants for known sizes; torch's own translation slices the shape of `x` even then."""
    dim %= len(x.shape)
    after = list(x.shape[dim + 1 :])
    if 0 in [*sizes, *after] or not all(isinstance(size, int) for size in after):
        return core.aten_unflatten(x, dim, sizes)
    before = [0] * dim  # 0 in Reshape keeps a dimension
    if all(isinstance(size, int) for size in sizes):
        return op.Reshape(x, op.Constant(value_ints=[*before, *sizes, *after]))
    first, last = ([op.Constant(value_ints=part)] if part else [] for part in (before, after))
    found = [op.Reshape(size, op.Constant(value_ints=[1])) for size in sizes]
    return op.Reshape(x, op.Concat(*first, *found, *last, axis=0))


@contextlib.contextmanager
def patch_torch_export() -> Iterator[None]:
    """Make torch.onnx.export decompose only where necessary, and insert casts without a run."""
    decompose = _fx_passes.decompose_with_registry

    def once(program: torch.export.ExportedProgram, registry: ONNXRegistry) -> Any:
        return program if _is_translatable(program, registry) else decompose(program, registry)

    with (
        mock.patch.object(_fx_passes, "decompose_with_registry", once),
        mock.patch.object(type_promotion, "_TypePromotionInterpreter", _Promotion),
    ):
        yield


def decomposed(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return the program as torch.onnx.export decomposes it, for names of its operators."""
    registry = ONNXRegistry.from_torchlib(opset_version=OPSET_OF_EXPORTER)
    found: torch.export.ExportedProgram = _fx_passes.decompose_with_registry(program, registry)
    return found


def _is_translatable(program: torch.export.ExportedProgram, registry: ONNXRegistry) -> bool:
    """Whether the program is one graph of operators that are not in-place and have a translation."""

    def is_known(target: Any) -> bool:
        if target is operator.getitem:
            return True
        if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
            return False
        return not target._schema.returns or registry.is_registered(
            target
        )  # operators without outputs are checks

    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return len(list(program.graph_module.modules())) == 1 and all(map(is_known, calls))


class _Promotion(type_promotion._TypePromotionInterpreter):
    """Run only the operators whose inputs get casts; the outputs of all others are recorded."""

    def run_node(self, n: torch.fx.Node) -> Any:
        if n.op != "call_function" or "val" not in n.meta:  # checks have no output
            return super().run_node(n)
        with self._set_current_node(n):
            if rule := type_promotion.get_type_promotion_rule(n, self.type_promotion_table):
                self._maybe_promote_node(n, rule)
        return n.meta["val"]
