"""VQ-VAE: the codes of a picture, and the picture of codes, by two small convolutional networks.

Van den Oord, Vinyals, Kavukcuoglu, "Neural discrete representation learning", NeurIPS 2017. Its own code was
not published for PyTorch; keys are those of the common implementation: `encoder.conv_stack`,
`pre_quantization_conv`, `vector_quantization.embedding`, `decoder.inverse_conv_stack`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from textual_vision.export.families.weights import (
    load_state,
    read_checkpoint,
    size_of,
    state_from_checkpoint,
)

PIXELS_PER_CODE = 4  # two convolutions of stride 2


@dataclass(frozen=True, kw_only=True)
class VqVaeConfig:
    """Sizes of both networks."""

    colors: int
    hidden: int
    residual_hidden: int
    residual_layers: int
    codebook_size: int
    embed_dim: int


class ResidualLayer(nn.Module):
    """Two convolutions without bias after a ReLU, added to their input, to which the ReLU was applied too.

    The ReLU of the implementation overwrites its input, so the sum begins with what passed it.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.res_block = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        x = x.relu()
        out: Tensor = x + self.res_block(x)
        return out


class ResidualStack(nn.Module):
    """The same residual layer several times, then a ReLU; the implementation shares its weights."""

    def __init__(self, config: VqVaeConfig) -> None:
        super().__init__()
        layer = ResidualLayer(config.hidden, config.residual_hidden)
        self.stack = nn.ModuleList([layer] * config.residual_layers)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        for layer in self.stack:
            x = layer(x)
        return x.relu()


class Encoder(nn.Module):
    """Features (batch, hidden, H / 4, W / 4) of a picture."""

    def __init__(self, config: VqVaeConfig) -> None:
        super().__init__()
        half = config.hidden // 2
        self.conv_stack = nn.Sequential(
            nn.Conv2d(config.colors, half, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(half, config.hidden, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(config.hidden, config.hidden, 3, 1, 1),
            ResidualStack(config),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The features."""
        features: Tensor = self.conv_stack(x)
        return features


class Decoder(nn.Module):
    """Picture (batch, colors, H, W) of rows of the codebook."""

    def __init__(self, config: VqVaeConfig) -> None:
        super().__init__()
        half = config.hidden // 2
        self.inverse_conv_stack = nn.Sequential(
            nn.ConvTranspose2d(config.embed_dim, config.hidden, 3, 1, 1),
            ResidualStack(config),
            nn.ConvTranspose2d(config.hidden, half, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(half, config.colors, 4, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The picture."""
        picture: Tensor = self.inverse_conv_stack(x)
        return picture


class Codebook(nn.Module):
    """The codebook under its key."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, width)


class VqVae(nn.Module):
    """Both directions: `encode` and `decode`."""

    def __init__(self, config: VqVaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.pre_quantization_conv = nn.Conv2d(config.hidden, config.embed_dim, 1)
        self.vector_quantization = Codebook(config.codebook_size, config.embed_dim)
        self.decoder = Decoder(config)

    def encode(self, picture: Tensor) -> Tensor:
        """Codes int64 (batch, H / 4, W / 4): the row nearest to the features of each position."""
        features = self.pre_quantization_conv(self.encoder(picture))
        return nearest_rows(features, self.vector_quantization.embedding.weight)

    def margins(self, picture: Tensor) -> Tensor:
        """By how much each code of `encode` won, float32 (batch, H / 4, W / 4)."""
        features = self.pre_quantization_conv(self.encoder(picture))
        return row_margins(features, self.vector_quantization.embedding.weight)

    def decode(self, codes: Tensor) -> Tensor:
        """Picture float32 (batch, colors, H, W), about in [-1, 1]."""
        rows = self.vector_quantization.embedding(codes).permute(0, 3, 1, 2)
        picture: Tensor = self.decoder(rows)
        return picture


class CodesFromPicture(nn.Module):
    """`encode` as a stage."""

    def __init__(self, model: VqVae) -> None:
        super().__init__()
        self.model = model

    def forward(self, picture: Tensor) -> Tensor:
        """The codes."""
        return self.model.encode(picture)

    def margins(self, picture: Tensor) -> Tensor:
        """By how much each code won."""
        return self.model.margins(picture)


class PictureFromCodes(nn.Module):
    """`decode` as a stage."""

    def __init__(self, model: VqVae) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor) -> Tensor:
        """The picture."""
        return self.model.decode(codes)


def nearest_rows(features: Tensor, rows: Tensor) -> Tensor:
    """The number of the row (rows, width) nearest to each vector of features (batch, width, H, W)."""
    nearest: Tensor = _distances(features, rows).argmin(3)
    return nearest


def row_margins(features: Tensor, rows: Tensor) -> Tensor:
    """By how much the next row's squared distance is larger, as a share of the vector's square.

    float32 (batch, H, W).
    """
    best = _distances(features, rows).topk(2, dim=3, largest=False).values
    margins: Tensor = (best[..., 1] - best[..., 0]) / features.square().sum(1).clamp_min(1e-12)
    return margins


def _distances(features: Tensor, rows: Tensor) -> Tensor:
    """Squared distances (batch, H, W, rows) without the vector's own square, which does not matter."""
    return rows.square().sum(1) - 2 * (features.permute(0, 2, 3, 1) @ rows.T)


def vq_vae_from_state(state: Mapping[str, Tensor]) -> VqVae:
    """The networks whose sizes are those of the state's tensors, without their weights."""
    stack = "encoder.conv_stack.5.stack."
    config = VqVaeConfig(
        colors=size_of(state, "encoder.conv_stack.0.weight", 1),
        hidden=size_of(state, "encoder.conv_stack.2.weight", 0),
        residual_hidden=size_of(state, f"{stack}0.res_block.1.weight", 0),
        residual_layers=len({key.removeprefix(stack).split(".")[0] for key in state if stack in key}),
        codebook_size=size_of(state, "vector_quantization.embedding.weight", 0),
        embed_dim=size_of(state, "vector_quantization.embedding.weight", 1),
    )
    return VqVae(config)


def network_from_file(checkpoint: Path) -> VqVae:
    """The networks of a checkpoint {model, …} with their weights."""
    state = state_from_checkpoint(read_checkpoint(checkpoint), inside=("model",))
    model = vq_vae_from_state(state)
    load_state(model, state, checkpoint.name)
    return model.eval()
