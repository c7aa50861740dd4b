"""MirrorGAN's captioning network: words from a picture, and how well a prompt fits a picture.

Qiao et al., "MirrorGAN: learning text-to-image generation by redescription", CVPR 2019: a ResNet (He et al.,
CVPR 2016) and an LSTM over words, of which the first input is the picture. Keys are those of its caption
checkpoints: `resnet.N`, `linear`, `bn`; and `embed`, `lstm`, `linear`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.families.weights import size_of

PICTURE_SIZE = 224  # pixels that the ResNet reads
FIRST_STAGE, STAGES = 4, 4  # places of the residual stages among the ResNet's layers
MAX_WORDS = 20


class Bottleneck(nn.Module):
    """Three normalized convolutions, added to their input, which is projected where the size changes."""

    def __init__(self, before: int, hidden: int, inner: int, after: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, after, 1, bias=False), nn.BatchNorm2d(after)
        self.downsample = (
            nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
            if project
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, after, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class PictureEncoder(nn.Module):
    """Features float32 (batch, width) of a picture float32 (batch, 3, H, W) in [-1, 1]."""

    def __init__(self, resnet: nn.Sequential, pooled: int, width: int) -> None:
        super().__init__()
        self.resnet = resnet
        self.linear = nn.Linear(pooled, width)
        self.bn = nn.BatchNorm1d(width)

    def forward(self, picture: Tensor) -> Tensor:
        """The features."""
        size = (PICTURE_SIZE, PICTURE_SIZE)
        resized = F.interpolate(picture, size=size, mode="bilinear", align_corners=False)
        features: Tensor = self.bn(self.linear(self.resnet(resized).flatten(1)))
        return features


def resnet_from_state(state: Mapping[str, Tensor], prefix: str) -> nn.Sequential:
    """A ResNet of bottlenecks without its last layer, whose sizes are those of the tensors under `prefix`."""
    width = size_of(state, f"{prefix}0.weight", 0)
    layers: list[nn.Module] = [
        nn.Conv2d(size_of(state, f"{prefix}0.weight", 1), width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    for stage in range(STAGES):
        start = f"{prefix}{FIRST_STAGE + stage}."
        blocks = {int(key.removeprefix(start).split(".")[0]) for key in state if key.startswith(start)}
        found = [_bottleneck(state, f"{start}{block}.", stage, block) for block in sorted(blocks)]
        layers.append(nn.Sequential(*found))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))


def _bottleneck(state: Mapping[str, Tensor], prefix: str, stage: int, block: int) -> Bottleneck:
    return Bottleneck(
        before=size_of(state, f"{prefix}conv1.weight", 1),
        hidden=size_of(state, f"{prefix}conv1.weight", 0),
        inner=size_of(state, f"{prefix}conv2.weight", 0),
        after=size_of(state, f"{prefix}conv3.weight", 0),
        stride=2 if stage and block == 0 else 1,
        project=f"{prefix}downsample.0.weight" in state,
    )


def picture_encoder_from_state(state: Mapping[str, Tensor]) -> PictureEncoder:
    """The encoder whose sizes are those of the state's tensors, without its weights."""
    return PictureEncoder(
        resnet_from_state(state, "resnet."),
        size_of(state, "linear.weight", 1),
        size_of(state, "linear.weight", 0),
    )


class CaptionDecoder(nn.Module):
    """Words one after the other, from the features of a picture."""

    def __init__(self, *, vocabulary: int, width: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, hidden, layers, batch_first=True)
        self.linear = nn.Linear(hidden, vocabulary)

    def greedy(self, features: Tensor, words: int = MAX_WORDS) -> Tensor:
        """The likeliest word after the other, int64 (batch, words)."""
        states = [
            (torch.zeros_like(features[:, :1]).expand(-1, self.lstm.hidden_size),) * 2
            for _ in range(self.lstm.num_layers)
        ]
        found, x = [], features
        for _ in range(words):
            for layer in range(self.lstm.num_layers):
                states[layer] = self._cell(x, states[layer], layer)
                x = states[layer][0]
            found.append(self.linear(x).argmax(1))
            x = self.embed(found[-1])
        return torch.stack(found, dim=1)

    def _cell(self, x: Tensor, state: tuple[Tensor, Tensor], layer: int) -> tuple[Tensor, Tensor]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        w_x, w_h, b_x, b_h = (getattr(self.lstm, f"{name}_l{layer}") for name in names)
        gates = F.linear(x, w_x, b_x) + F.linear(state[0], w_h, b_h)
        enter, forget, new, leave = gates.chunk(4, dim=1)
        cell = forget.sigmoid() * state[1] + enter.sigmoid() * new.tanh()
        return leave.sigmoid() * cell.tanh(), cell

    def cross_entropy(self, features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Mean negative log likelihood of each prompt's words, float32 (batch,), each given those before."""
        inputs = torch.cat((features[:, None, :], self.embed(input_ids)), dim=1)
        hidden, _ = self.lstm(inputs.narrow(1, 0, input_ids.shape[1]))
        likelihood = self.linear(hidden).log_softmax(2).gather(2, input_ids[:, :, None])[:, :, 0]
        mask = attention_mask.to(likelihood.dtype)
        total: Tensor = (likelihood * mask).sum(1) / mask.sum(1)
        return -total


def caption_decoder_from_state(state: Mapping[str, Tensor]) -> CaptionDecoder:
    """The decoder whose sizes are those of the state's tensors, without its weights."""
    return CaptionDecoder(
        vocabulary=size_of(state, "embed.weight", 0),
        width=size_of(state, "embed.weight", 1),
        hidden=size_of(state, "lstm.weight_hh_l0", 1),
        layers=sum(key.startswith("lstm.weight_ih_l") for key in state),
    )


class Captioner(nn.Module):
    """Words of a picture, int64 (batch, 20), and the cross-entropy of its prompt, float32 (batch,).

    The picture is uint8 (batch, H, W, 3), as it is shown.
    """

    def __init__(self, encoder: PictureEncoder, decoder: CaptionDecoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The words and the cross-entropy."""
        picture = image.to(torch.float32).permute(0, 3, 1, 2) / 127.5 - 1
        features = self.encoder(picture)
        return self.decoder.greedy(features), self.decoder.cross_entropy(features, input_ids, attention_mask)
