"""Whether OpenVINO's int8 products are exact on this CPU; where they are not, int8 graphs run in float32.

x86 CPUs without VNNI add two products of int8 in 16 bits, which overflows.
"""

from __future__ import annotations

import numpy as np
import openvino
from openvino import opset13
from openvino.passes import ConstantFolding, Manager

CHANNELS = 16
LARGEST = 127
QUANTIZERS = ("FakeQuantize", "QuantizeLinear")
# An internal option of the CPU plugin: with "NO", Q/DQ pairs are computed in float as they stand.
IN_FLOAT = {"LP_TRANSFORMS_MODE": "NO"}


def quantizes(model: openvino.Model) -> bool:
    """Return whether the graph quantizes activations."""
    return any(node.get_type_name() in QUANTIZERS for node in model.get_ops())


def computed_in_float(model: openvino.Model) -> dict[str, object]:
    """Make the weights of the graph float, in place; return the settings that leave Q/DQ pairs in float.

    With int8 weights, OpenVINO 2026.4 takes any transposition before a 1×1 convolution for one of channels.
    """
    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)
    return dict(IN_FLOAT)


def overflows(core: openvino.Core, device: str, precision: str) -> bool:
    """Return whether a convolution of the largest int8 values is wrong."""
    compiled = core.compile_model(_largest_sum(), device, {"INFERENCE_PRECISION_HINT": precision})
    x = np.full((1, CHANNELS, 1, 1), LARGEST, np.float32)
    expected = CHANNELS * LARGEST**2
    return not np.allclose(compiled([x])[0], expected, rtol=0.01)


def _largest_sum() -> openvino.Model:
    """A 1×1 convolution, quantized with the scale 1, whose weights all are 127."""
    x = opset13.parameter([1, CHANNELS, 1, 1], np.float32)
    limits = [np.float32(bound) for bound in (-LARGEST - 1, LARGEST, -LARGEST - 1, LARGEST)]
    quantized = opset13.fake_quantize(x, *limits, 2 * LARGEST + 2)
    weight = opset13.constant(np.full((CHANNELS, CHANNELS, 1, 1), LARGEST, np.int8))
    scale = opset13.constant(np.ones((1, 1, 1, 1), np.float32))
    product = opset13.multiply(opset13.convert(weight, "f32"), scale)
    y = opset13.convolution(quantized, product, [1, 1], [0, 0], [0, 0], [1, 1])
    return openvino.Model([y], [x], "largest_sum")
