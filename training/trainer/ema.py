"""The moving average of the weights, which is saved and evaluated."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WARMUP = 10  # steps; the decay starts low, at updates / (updates + WARMUP)


class Ema:
    """Averages of the float32 tensors of a module's state, copies of the others."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {name: w.detach().clone() for name, w in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Average in the current weights; the decay grows to its full value."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + WARMUP))
        for name, weight in module.state_dict().items():
            if weight.dtype == torch.float32:
                self.weights[name].lerp_(weight, 1 - decay)
            else:
                self.weights[name].copy_(weight)

    def state(self) -> dict[str, Tensor | int]:
        """The averages and their number of updates, for `load`."""
        return {"updates": self.updates, **self.weights}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor | int]) -> None:
        """Restore a saved average."""
        self.updates = int(state["updates"])
        for name, weight in state.items():
            if isinstance(weight, Tensor):
                self.weights[name].copy_(weight)


@torch.no_grad()
def interpolate_weights(
    before: dict[str, Tensor], after: dict[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Weights of a model, `share` of the way from `before` to `after` (Wortsman et al. 2022, eq. 1)."""
    found = {
        name: torch.lerp(before[name].to(weight.device), weight, share)
        if weight.dtype == torch.float32
        else weight.clone()
        for name, weight in after.items()
    }
    found["codebook.rows"] = F.normalize(found["codebook.rows"], dim=1)
    return found


def with_generator_of(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of `before`, with generator and image encoder of `after`."""
    parts = ("generator.", "image_encoder.")
    return {
        name: weight if name.startswith(parts) else before[name].to(weight.device)
        for name, weight in after.items()
    }
