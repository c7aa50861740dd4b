"""Matrices whose rows are whole multiples, from -127 to 127, of one number each.

Such a matrix is stored as int8 without loss, so an exported graph with int8 tables gives the codes that
training evaluated. The frozen text encoder is rounded before the text codes are fitted to its states. All
other matrices are rounded at the end of a run, before it is evaluated.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 127
SCALE_BITS = 16  # of a scale's mantissa: its products with 7 bits are exact in float32


def int8_row_scales(weight: Tensor) -> Tensor:
    """Weight (..., C) float32 -> the least scale of each row that covers its values, (..., 1)."""
    mantissa, exponent = torch.frexp(weight.abs().amax(-1, keepdim=True) / LARGEST)
    steps = torch.ldexp(torch.ceil(mantissa * 2.0**SCALE_BITS) / 2.0**SCALE_BITS, exponent)
    return torch.where(steps > 0, steps, torch.ones_like(steps))


def round_to_int8_grid(weight: Tensor) -> Tensor:
    """Weight (..., C) float32, rounded to the grid of each row; values on the grid do not change."""
    steps = int8_row_scales(weight)
    return (weight / steps).round() * steps


def uses_int8_grid(name: str, weight: Tensor) -> bool:
    """Whether a weight is rounded to the int8 grid: matrices and tables are, codebook and kernels are not.

    Nearest rows of the codebook must not change, and export folds batch norms into kernels.
    """
    return weight.dtype == torch.float32 and weight.ndim in (2, 3) and not name.startswith("codebook.")


def round_weights_to_int8_grid(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model, those of `uses_int8_grid` rounded."""
    return {
        name: round_to_int8_grid(weight) if uses_int8_grid(name, weight) else weight
        for name, weight in weights.items()
    }
