"""EfficientNet-Lite2 features of pictures, which scores are measured on; losses use Lite0.

Compare a score on these features only with a score on these features, never with a published FID, KID or CLIP
score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from textual_vision.training.models.efficientnet import pretrained_efficientnet

DETAIL = 64  # pixels along a side that larger pictures are shrunk to, so that scores of all models compare
VIEW = 128  # pixels along a side of the input of the network
FEATURES = 1280
LAYOUT_BLOCK = 15  # its output still has spatial information
LAYOUT_CELLS = 4  # rows and columns of averages of this output
CHUNK = 32  # pictures at once


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """Features of N pictures: `pooled` float32 (N, 1280), `layout` float32 (N, 16 * 208)."""

    pooled: NDArray[np.float32]
    layout: NDArray[np.float32]

    @property
    def combined(self) -> NDArray[np.float32]:
        """Both, concatenated: float32 (N, 1280 + 16 * 208)."""
        return np.hstack([self.pooled, self.layout])


class EfficientNetFeatures:
    """Extractor of features by EfficientNet-Lite2; BackendMissingError when it is not installed."""

    def __init__(self) -> None:
        self.net = pretrained_efficientnet("lite2").eval().requires_grad_(False)

    @torch.no_grad()
    def extract(self, pictures: NDArray[np.uint8]) -> ImageFeatures:
        """Features of pictures, uint8 (N, S, S, 3), N at least 1."""
        pooled, layout = [], []
        for start in range(0, len(pictures), CHUNK):
            part = torch.from_numpy(np.array(pictures[start : start + CHUNK]))
            x = _resized(part.permute(0, 3, 1, 2).float())
            x = ((x - 127.0) / 128.0).contiguous(memory_format=torch.channels_last)
            x = F.relu6(self.net._bn0(self.net._conv_stem(x)))
            for number, block in enumerate(self.net._blocks):
                x = block(x)
                if number == LAYOUT_BLOCK:
                    layout.append(F.adaptive_avg_pool2d(x, LAYOUT_CELLS).flatten(1).numpy())
            pooled.append(F.relu6(self.net._bn1(self.net._conv_head(x))).mean((2, 3)).numpy())
        return ImageFeatures(pooled=np.concatenate(pooled), layout=np.concatenate(layout))


def _resized(x: Tensor) -> Tensor:
    """(N, 3, S, S) -> (N, 3, VIEW, VIEW), through DETAIL when larger than that."""
    if x.shape[2] > DETAIL:
        x = F.adaptive_avg_pool2d(x, DETAIL)  # area averages, as in corpora
    if x.shape[2] != VIEW:
        x = F.interpolate(x, (VIEW, VIEW), mode="bilinear", align_corners=False)
    return x


def kid(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The unbiased KID of two sets of features, with a cubic kernel (Bińkowski et al. 2018, eq. 4)."""

    def kernel(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
        product: NDArray[np.float64] = x.astype(np.float64) @ y.astype(np.float64).T
        cubed: NDArray[np.float64] = (product / x.shape[1] + 1) ** 3
        return cubed

    def within(x: NDArray[np.float32]) -> float:
        k = kernel(x, x)
        return float((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())
