"""Rewrites that compute at export what does not change from picture to picture.

Each takes a graph and changes it in place. Exact means: the same numbers but for the order in which float32
products are rounded.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import rewriter
from onnxscript.optimizer import _constant_folding
from onnxscript.rewriter import pattern
from onnxscript.rewriter.rules import common as rules

from textual_vision.export.graph.cleanup import NO_LIMIT, tidy
from textual_vision.export.graph.constants import derived_constant

LOOK_AT_PAIRS = ("SlicesSplit",)
TABLE_BYTES = 1 << 12  # a smaller one may be stored more than once


def fold_constants(model: ir.Model) -> bool:
    """Whatever depends on weights alone: transposed matrices, squared codes, shapes. Bit for bit the same.

    Parts of a table that has several readers stay parts of it, and are stored once.
    """
    folding = _constant_folding.FoldConstantsPass(
        shape_inference=True,
        input_size_limit=NO_LIMIT,
        output_size_limit=NO_LIMIT,
        should_fold=lambda node: False if _is_part_of_table(node) else None,
    )
    modified = False
    for _ in range(2):
        modified |= bool(folding(model).modified)
        modified |= bool(passes.RemoveUnusedNodesPass()(model).modified)
    if (model.opset_imports.get("") or 0) < 18:  # which knows no num_outputs: folding sets it all the same
        for node in model.graph.all_nodes():
            if node.op_type == "Split":
                node.attributes.pop("num_outputs", None)
    return modified


def _is_part_of_table(node: ir.Node) -> bool:
    table = node.inputs[0] if node.op_type == "Slice" else None
    if table is None or table.const_value is None:
        return False
    return table.const_value.nbytes >= TABLE_BYTES and len(table.uses()) > 1


def fold_batch_norm(model: ir.Model) -> bool:
    """Batch norm into the convolution before it: (Wx - mean) / std * gamma + beta is one too."""
    found = rewriter.RewriteRuleSet(
        [
            # A bias of zeros that convolutions share would keep batch norm out.
            rules.remove_optional_bias_from_conv_rule,
            rules.remove_optional_bias_from_conv_transpose_rule,
            rules.fuse_batchnorm_into_conv_rule,
            rules.fuse_batchnorm_into_conv_transpose_rule,
            rules.fuse_batchnorm_into_gemm_rule,
        ]
    )
    count = 0
    while applied := found.apply_to_model(model):  # one application leaves some behind
        tidy(model)
        count += applied
    return count > 0


def simplify(model: ir.Model) -> bool:
    """onnxscript's own list: operators that do nothing, or that one other does as well.

    But for the rules that look at every pair of nodes, which took most of a large graph's time.
    """
    found = [rule for rule in rewriter._DEFAULT_REWRITE_RULES if rule.name not in LOOK_AT_PAIRS]
    return bool(rewriter.RewritePass(found)(model).modified)


class _ScaledLinear(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """(x W + b), reshaped and transposed, times a number: the number goes into W and b."""

    def pattern(self, op, x, weight, bias, shape, scale):  # type: ignore[no-untyped-def]
        linear = op.Add(op.MatMul(x, weight), bias)
        heads = op.Transpose(op.Reshape(linear, shape), _outputs=["heads"])
        return op.Mul(heads, scale)

    def check(self, context, weight, bias, scale, **_):  # type: ignore[no-untyped-def]
        constant = all(value.const_value is not None for value in (weight, bias, scale))
        return constant and scale.const_value.size == 1

    def rewrite(self, op, x, weight, bias, shape, scale, heads, **_):  # type: ignore[no-untyped-def]
        factor = scale.const_value.numpy().reshape(())
        transpose = heads.producer()
        reshape = transpose.inputs[0].producer()
        linear = op.Add(
            op.MatMul(x, _scaled(op, weight, factor)),
            _scaled(op, bias, factor),
        )
        reshaped = op.Reshape(linear, shape, **_plain(reshape))
        return op.Transpose(reshaped, **_plain(transpose))


class _OnePlusChunk(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """1 + the first half of (x W + b), FiLM's scale: the one goes into the first half of b."""

    def pattern(self, op, x, weight, bias, axes, one):  # type: ignore[no-untyped-def]
        film = op.Gemm(x, weight, bias, _outputs=["film"])
        scale, shift = op.Split(op.Unsqueeze(film, axes), _outputs=["scale", "shift"])
        return op.Add(scale, one), shift

    def check(self, context, bias, axes, one, film, scale, shift, **_):  # type: ignore[no-untyped-def]
        constant = bias.const_value is not None and one.const_value is not None
        return (
            constant
            and one.const_value.size == 1
            and list(bias.const_value.shape) == [_outputs_of_gemm(film.producer())]
            and _splits_channels(scale.producer(), axes, bias)
            and len(film.uses()) == 1
            and len(scale.uses()) == 1
            and film.producer().attributes.get_float("beta", 1.0) == 1.0
        )

    def rewrite(self, op, x, weight, bias, axes, one, film, scale, **_):  # type: ignore[no-untyped-def]
        number = one.const_value.numpy().reshape(())
        values = bias.const_value.numpy()

        def added() -> np.ndarray:
            half = np.arange(len(values)) < len(values) // 2
            whole: np.ndarray = np.where(half, values + number, values).astype(values.dtype)
            return whole

        fresh = derived_constant(op, bias, f"first half plus {float(number)!r}", added)
        split = scale.producer()
        film_again = op.Gemm(x, weight, fresh, **_plain(film.producer()))
        return op.Split(op.Unsqueeze(film_again, axes), **_plain(split), _outputs=2)


def _splits_channels(split: ir.Node, axes: ir.Value, bias: ir.Value) -> bool:
    """Whether the Split takes (batch, channels, 1, …) apart into two equal halves of the channels."""
    if axes.const_value is None or bias.const_value is None:
        return False
    added = axes.const_value.numpy().ravel().tolist()
    axis = split.attributes.get_int("axis", 0) % (2 + len(added))
    return min(added, default=0) >= 2 and axis == 1 and len(bias.const_value.numpy()) % 2 == 0


def _outputs_of_gemm(node: ir.Node) -> int:
    """Return the number of output channels, -1 where the weight's shape is not known."""
    weight = node.inputs[1]
    if weight is None or weight.shape is None:
        return -1
    size = weight.shape[0 if node.attributes.get_int("transB", 0) else 1]
    return size if isinstance(size, int) else -1


class _SubtractScaledProduct(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """c - k (x W) with constant W and k is c + x (-k W): a distance to codes is one product and one sum."""

    def pattern(self, op, offset, x, weight, scale):  # type: ignore[no-untyped-def]
        return op.Sub(offset, op.Mul(op.MatMul(x, weight), scale))

    def check(self, context, weight, scale, **_):  # type: ignore[no-untyped-def]
        return (
            weight.const_value is not None and scale.const_value is not None and scale.const_value.size == 1
        )

    def rewrite(self, op, offset, x, weight, scale):  # type: ignore[no-untyped-def]
        factor = -scale.const_value.numpy().reshape(())
        return op.Add(offset, op.MatMul(x, _scaled(op, weight, factor)))


def fold_attention_scale(model: ir.Model) -> bool:
    """Numbers that multiply a product by weights go into the weights: attention's 1 / sqrt(width)."""
    return bool(rewriter.RewriteRuleSet([_ScaledLinear.rule()]).apply_to_model(model))


def fold_codebook_distance(model: ir.Model) -> bool:
    """|c|^2 - 2 x c as one product with constants; powers of two, so bit for bit the same."""
    return bool(rewriter.RewriteRuleSet([_SubtractScaledProduct.rule()]).apply_to_model(model))


def fold_film(model: ir.Model) -> bool:
    """FiLM's 1 + scale into the bias of what gives the scale."""
    return bool(rewriter.RewriteRuleSet([_OnePlusChunk.rule()]).apply_to_model(model))


def _scaled(op, weight: ir.Value, factor: np.ndarray) -> ir.Value:  # type: ignore[no-untyped-def]
    """A constant times a number: made once for all the places that use it, a network's every step."""
    tensor = weight.const_value
    assert tensor is not None
    return derived_constant(op, weight, f"scaled by {float(factor)!r}", lambda: tensor.numpy() * factor)


def _plain(node: ir.Node) -> dict[str, object]:
    """A node's attributes as keyword arguments for a new one."""
    return dict(node.attributes)
