"""Transposed convolution (kernel 4, stride 2, padding 1) as a convolution whose output is interleaved.

Row 2i + r of the result takes part of the kernel's rows from input rows i - 1 + r and i + r alone. So each
of the four (r, s) interleaved pictures is a 2x2 convolution of the input: four times the channels, then
DepthToSpace. With a padding of 1 the four come out one row and column too large on opposite sides; `crop`
cuts that off again (nearly the same work), `wide` embeds the 2x2 kernels into 3x3 ones instead (2.25 times
the work, no crop), `apart` makes each picture by a convolution of its own, padded on its own sides (the same
work, no crop). Exact but for rounding: the same products, summed in another order.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnxscript import rewriter
from onnxscript.rewriter import pattern

from textual_vision.export.graph.constants import derived_constant

Float32 = npt.NDArray[np.float32]
KERNEL, STRIDE, PADDING = 4, 2, 1
PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))  # row and column of each of the interleaved pictures


def crop_weights(weight: Float32) -> Float32:
    """ConvTranspose weights (C_in, C_out, 4, 4) → Conv's (4·C_out, C_in, 2, 2), DepthToSpace's DCR order.

    The convolution with padding 1 gives (h + 1)² places; after DepthToSpace the first row and column and the
    last are cut off.
    """
    # Place p of the padded result, output row 2p + r - 1, reads input rows p - 1, p by kernel rows 2 + r, r.
    phases = [_phase(weight, 1 - row, 1 - column) for row, column in PHASES]
    return _joined(phases)


def wide_weights(weight: Float32) -> Float32:
    """ConvTranspose weights (C_in, C_out, 4, 4) → Conv's (4·C_out, C_in, 3, 3), DepthToSpace's DCR order."""
    phases = []
    for row, column in PHASES:
        kernel = np.zeros((*weight.shape[:2], 3, 3), weight.dtype)
        kernel[:, :, row : row + 2, column : column + 2] = _phase(weight, row, column)
        phases.append(kernel)
    return _joined(phases)


def _phase(weight: Float32, row: int, column: int) -> Float32:
    """The kernel (C_in, C_out, 2, 2) of output rows 2i + `row` and columns 2j + `column`.

    Such a row reads input rows i - 1 + row and i + row by kernel rows 3 - row and 1 - row.
    """
    return weight[:, :, 1 - row :: 2, 1 - column :: 2][:, :, ::-1, ::-1]


def _phase_weights(weight: Float32, row: int, column: int) -> Float32:
    turned: Float32 = _phase(weight, row, column).swapaxes(0, 1)
    return turned


def _joined(phases: list[Float32]) -> Float32:
    """Four kernels (C_in, C_out, k, k) as one (4·C_out, C_in, k, k), the phase varying slowest."""
    stacked = np.stack(phases)  # (4, C_in, C_out, k, k)
    turned = stacked.transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(turned.reshape(-1, *turned.shape[2:]))


class _ConvTransposeRule(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    def pattern(self, op, x, weight):  # type: ignore[no-untyped-def]
        return op.ConvTranspose(x, weight, _allow_other_inputs=True, _outputs=["result"])

    def check(self, context, weight, result, **_):  # type: ignore[no-untyped-def]
        node = result.producer()
        attributes = node.attributes
        usual = {  # and what each is when it is not given
            "kernel_shape": ([KERNEL] * 2, [KERNEL] * 2),
            "strides": ([STRIDE] * 2, [1, 1]),
            "pads": ([PADDING] * 4, [0] * 4),
            "dilations": ([1, 1], [1, 1]),
            "output_padding": ([0, 0], [0, 0]),
        }
        given = all(list(attributes.get_ints(key, rest)) == value for key, (value, rest) in usual.items())
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        constant = weight.const_value is not None and (bias is None or bias.const_value is not None)
        return (
            given
            and constant
            and attributes.get_int("group", 1) == 1
            and list(weight.const_value.shape)[2:] == [KERNEL] * 2
            and attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
            and "output_shape" not in attributes
        )

    def _convolved(self, op, x, weight, result, kernel):  # type: ignore[no-untyped-def]
        """Conv and DepthToSpace with `kernel`, and the bias four times."""
        node = result.producer()
        inputs = [x, kernel]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = node.inputs[2]
            repeated = derived_constant(op, bias, "four times", lambda: np.tile(bias.const_value.numpy(), 4))
            inputs.append(repeated)
        size = kernel.const_value.shape[2]
        convolved = op.Conv(*inputs, kernel_shape=[size, size], pads=[1, 1, 1, 1], strides=[1, 1])
        return op.DepthToSpace(convolved, blocksize=2, mode="DCR")


class _CropRule(_ConvTransposeRule):
    def rewrite(self, op, x, weight, result, **_):  # type: ignore[no-untyped-def]
        values = weight.const_value.numpy()
        kernel = derived_constant(op, weight, "2x2 kernels", lambda: crop_weights(values))
        interleaved = self._convolved(op, x, weight, result, kernel)  # type: ignore[no-untyped-call]
        bounds = [
            op.initializer(ir.tensor(np.array(value, np.int64)), name=f"{result.name}_{name}")
            for name, value in (("starts", [1, 1]), ("ends", [-1, -1]), ("axes", [2, 3]))
        ]
        return op.Slice(interleaved, *bounds)


class _Conv3x3Rule(_ConvTransposeRule):
    def rewrite(self, op, x, weight, result, **_):  # type: ignore[no-untyped-def]
        values = weight.const_value.numpy()
        kernel = derived_constant(op, weight, "3x3 kernels", lambda: wide_weights(values))
        return self._convolved(op, x, weight, result, kernel)  # type: ignore[no-untyped-call]


class _PhasesRule(_ConvTransposeRule):
    def rewrite(self, op, x, weight, result, **_):  # type: ignore[no-untyped-def]
        bias = result.producer().inputs[2:]
        pictures = []
        values = weight.const_value.numpy()
        for row, column in PHASES:
            make = partial(_phase_weights, values, row, column)
            part = derived_constant(op, weight, f"phase {row} {column}", make)
            pads = [1 - row, 1 - column, row, column]
            pictures.append(op.Conv(x, part, *bias, kernel_shape=[2, 2], pads=pads, strides=[1, 1]))
        joined = op.Concat(*pictures, axis=1)
        sizes = [weight.const_value.shape[1], *list(x.shape or [])[2:]]
        if len(sizes) == 3 and all(isinstance(size, int) for size in sizes):
            return _interleaved(op, joined, sizes, result.name)  # type: ignore[no-untyped-call]
        return op.DepthToSpace(joined, blocksize=STRIDE, mode="DCR")


def replace_conv_transpose_by_crop(model: ir.Model) -> bool:
    """ConvTranspose(4, 2, 1) → Conv 2x2 to four times the channels, DepthToSpace, crop by one."""
    return bool(rewriter.RewriteRuleSet([_CropRule.rule()]).apply_to_model(model))


def replace_conv_transpose_by_phases(model: ir.Model) -> bool:
    """ConvTranspose(4, 2, 1) → four Conv 2x2, each padded on two sides, interleaved together."""
    return bool(rewriter.RewriteRuleSet([_PhasesRule.rule()]).apply_to_model(model))


class _InterleaveRule(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    def pattern(self, op, x):  # type: ignore[no-untyped-def]
        return op.DepthToSpace(x, _outputs=["interleaved"])

    def check(self, context, x, interleaved, **_):  # type: ignore[no-untyped-def]
        how = interleaved.producer().attributes
        sizes = list(x.shape or [])
        return (
            len(sizes) == 4
            and all(isinstance(size, int) for size in sizes[1:])
            and how.get_string("mode", "DCR") == "DCR"
            and how.get_int("blocksize") == STRIDE
        )

    def rewrite(self, op, x, interleaved, **_):  # type: ignore[no-untyped-def]
        _, channels, *sides = x.shape
        return _interleaved(op, x, [channels // STRIDE**2, *sides], interleaved.name)  # type: ignore[no-untyped-call]


def _interleaved(op, x, sizes, name):  # type: ignore[no-untyped-def]
    """DepthToSpace of `x` to pictures of `sizes` (channels, and their height and width before) as turns."""
    narrow, height, width = sizes
    apart, joined = (
        op.initializer(ir.tensor(np.array(value, np.int64)), name=f"{name}_{which}")
        for which, value in (
            ("apart", [0, 0, 0, STRIDE, STRIDE, narrow]),
            ("joined", [0, STRIDE * height, STRIDE * width, narrow]),
        )
    )
    phases = op.Reshape(op.Transpose(x, perm=[0, 2, 3, 1]), apart)
    last = op.Reshape(op.Transpose(phases, perm=[0, 1, 3, 2, 4, 5]), joined)
    return op.Transpose(last, perm=[0, 3, 1, 2])


def interleave_channels_last(graph: onnx.ModelProto) -> onnx.ModelProto:
    """DepthToSpace as turns and reshapes that leave each position's channels together; exact.

    ONNX Runtime's integer convolutions have their channels last, so the outer turns cancel theirs, and what
    is left copies whole rows of channels instead of single numbers. OpenVINO's backend turns it back.
    """
    if not any(node.op_type == "DepthToSpace" for node in graph.graph.node):
        return graph
    model = ir.from_proto(onnx.shape_inference.infer_shapes(graph))
    rewriter.RewriteRuleSet([_InterleaveRule.rule()]).apply_to_model(model)
    return ir.to_proto(model)


def replace_conv_transpose_by_3x3(model: ir.Model) -> bool:
    """ConvTranspose(4, 2, 1) → Conv 3x3 to four times the channels, DepthToSpace."""
    return bool(rewriter.RewriteRuleSet([_Conv3x3Rule.rule()]).apply_to_model(model))
