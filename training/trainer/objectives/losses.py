"""Loss terms, as functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from textual_vision.training.config import LossConfig


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q || N(0, I)) in nats, mean over the batch (Kingma & Welling 2014, appendix B)."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()


def code_cross_entropy(raw: Tensor, codes: Tensor, rows: Tensor, losses: LossConfig) -> Tensor:
    """Cross-entropy of the logits `logit_scale` * raw (N, D) . rows (K, D) to codes (N,), in nats.

    A share `label_smoothing` of each target is spread over the unit rows in proportion to
    exp(label_smoothing_scale * cosine), because similar codes look the same. Logits are linear in the rows,
    so the mean logit under a smoothed target is the logit of its mean row. Of the (N, K) logits only the
    logarithm of their summed exponentials is needed.
    """
    near = F.softmax(rows @ rows.T * losses.label_smoothing_scale, dim=1)
    target = torch.lerp(rows, near @ rows, losses.label_smoothing)
    scaled = raw * losses.logit_scale
    return ((scaled @ rows.T).logsumexp(1) - (scaled * target[codes]).sum(1)).mean()


def discriminator_loss(real: Tensor, fake: Tensor, mismatched: Tensor | None, weight: float) -> Tensor:
    """-log D(x, y) - log(1 - D(G, y)) on logits, a wrong caption counted as a fake (Reed et al. 2016)."""
    loss = F.softplus(-real).mean()
    if mismatched is None or weight == 0:
        return loss + F.softplus(fake).mean()
    return loss + (F.softplus(fake).mean() + weight * F.softplus(mismatched).mean()) / (1 + weight)


def generator_loss(fake: Tensor) -> Tensor:
    """-log D(G, y) on logits: the non-saturating form (Goodfellow et al. 2014)."""
    return F.softplus(-fake).mean()


def diff_augment(pictures: Tensor, chance: Tensor, shift: float = 0.125) -> Tensor:
    """Brightness, saturation and translation that gradients pass through (Zhao et al. 2020).

    Pictures (B, 3, H, W), chance (B, 4) uniform in [0, 1) -> like pictures.
    """
    count, _, height, width = pictures.shape
    chance = chance.to(pictures.device)
    brightness, saturation = chance[:, 0] - 0.5, 2 * chance[:, 1]
    x = pictures + 0.5 * brightness[:, None, None, None]
    gray = x.mean(1, keepdim=True)
    x = gray + (x - gray) * saturation[:, None, None, None]
    move = (2 * chance[:, 2:] - 1) * 2 * shift
    identity = torch.eye(2, device=x.device).expand(count, 2, 2)
    grid = F.affine_grid(torch.cat([identity, move[:, :, None]], 2), [count, 3, height, width], False)
    return F.grid_sample(x, grid, mode="nearest", padding_mode="border", align_corners=False)
