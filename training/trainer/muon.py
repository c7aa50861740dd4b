"""Muon (Jordan et al. 2024): moves of a matrix are made orthogonal, in a type that the device is fast at.

torch's own does that in bfloat16 alone, which a CPU without units for it can hardly multiply: a step of a
latent network took two such cores 16 s in it, .33 s in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# The quintic iteration and its coefficients are Jordan et al.'s; moves get the size of AdamW's (Liu et al.
# 2025, Muon is scalable for LLM training, eq. 4).
A, B, C = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
MOMENTUM = 0.95
ADAMW_SIZE = 0.2
SMALLEST = 1e-7


class Muon(torch.optim.Optimizer):
    """For matrices, as torch.optim.Muon with `match_rms_adamw` but for `dtype`, which it multiplies in.

    `lr` is AdamW's, weight decay is decoupled from it as there.
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
        """One move of every matrix that has a gradient."""
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
    """Nearly U V^T of the singular value decomposition U S V^T of a matrix (M, N), by Newton-Schulz."""
    x = matrix.to(dtype)
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    x = x / x.norm().clamp_min(SMALLEST)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=B, alpha=C), x, beta=A)
    return (x.T if tall else x).to(matrix.dtype)
