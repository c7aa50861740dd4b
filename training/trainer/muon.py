"""The Muon optimizer (Jordan et al. 2024): updates of matrices are made orthogonal, in a chosen dtype.

torch.optim.Muon does that in bfloat16 only. On two CPU cores without units for bfloat16 its update of the
latent network took 16 s, in float32 0.33 s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Coefficients of the quintic iteration by Jordan et al.; updates have the size of AdamW's (Liu et al. 2025,
# Muon is scalable for LLM training, eq. 4).
A, B, C = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
MOMENTUM = 0.95
ADAMW_SIZE = 0.2
SMALLEST = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon for matrices: torch.optim.Muon with `match_rms_adamw`, multiplying in `dtype`.

    `lr` and the decoupled weight decay are those of AdamW.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        weight_decay: float,
        lr: float = 1e-3,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                momentum = state["momentum"]
                momentum.lerp_(matrix.grad, 1 - MOMENTUM)
                move = orthogonal(torch.lerp(matrix.grad, momentum, MOMENTUM), self._dtype)
                size = ADAMW_SIZE * max(matrix.shape) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.sub_(move, alpha=group["lr"] * size)


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """An approximation of U V^T for the singular value decomposition U S V^T of a matrix (M, N)."""
    x = matrix.to(dtype)
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    x = x / x.norm().clamp_min(SMALLEST)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=B, alpha=C), x, beta=A)
    return (x.T if tall else x).to(matrix.dtype)
