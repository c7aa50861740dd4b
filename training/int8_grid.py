"""Matrices whose rows are whole multiples, from -127 to 127, of one number each.

Such a matrix is stored as int8 without a loss: what an exported graph with int8 tables draws is what
training evaluated, to the code. The frozen text encoder is rounded before the text codes are fitted to its
states, everything else at the end of a run, before anything is reported of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 127
SCALE_BITS = 16  # of a scale's mantissa: its products with 7 bits are exact in float32


def int8_row_scales(weight: Tensor) -> Tensor:
    """Weight (..., C) float32 -> the step of each row, (..., 1): the least that reaches its largest value."""
    mantissa, exponent = torch.frexp(weight.abs().amax(-1, keepdim=True) / LARGEST)
    steps = torch.ldexp(torch.ceil(mantissa * 2.0**SCALE_BITS) / 2.0**SCALE_BITS, exponent)
    return torch.where(steps > 0, steps, torch.ones_like(steps))


def round_to_int8_grid(weight: Tensor) -> Tensor:
    """Weight (..., C) float32, rounded to its rows' grids; what is on them already stays as it is."""
    steps = int8_row_scales(weight)
    return (weight / steps).round() * steps


def uses_int8_grid(name: str, weight: Tensor) -> bool:
    """Whether a weight of a model is rounded: matrices and tables, but not the codebook, whose nearest
    rows must not change, nor kernels, which export folds batch norms into."""
    return weight.dtype == torch.float32 and weight.ndim in (2, 3) and not name.startswith("codebook.")


def round_weights_to_int8_grid(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's weights with all that `uses_int8_grid` on its grid."""
    return {
        name: round_to_int8_grid(weight) if uses_int8_grid(name, weight) else weight
        for name, weight in weights.items()
    }
