"""VQ-GAN and VQ-VAE in both directions, from their files: codes to picture, and picture to codes.

A bundle begins with random codes, so that it generates pictures. `TextToImage.run_stage` takes codes and
pictures of a user's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from textual_vision.export.families.parts import FamilyNetworks, stage, tensor
from textual_vision.export.families.quantizers.vq_gan_encoder import encoder_state, vq_gan_encoder_from_state
from textual_vision.export.families.quantizers.vq_vae import (
    PIXELS_PER_CODE,
    CodesFromPicture,
    PictureFromCodes,
    network_from_file,
)
from textual_vision.export.families.vq_gan import decoder_state, vq_gan_from_state
from textual_vision.export.families.weights import load_state, read_checkpoint, state_from_checkpoint
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.specs import NoiseSpec

VQ_GAN_PIXELS, VQ_VAE_PIXELS = 256, 32  # height and width, where nothing says another size
HALF_LEVELS = 127.5
ENCODER_KEYS = "encoder."
_RESOLUTION = re.compile(r"^\s*resolution:\s*(\d{1,5})\s*$", re.MULTILINE)


class PictureReader(Protocol):
    """Gives the codes of a picture float32 (batch, colors, H, W) in [-1, 1], and by how much each won."""

    def margins(self, picture: Tensor) -> Tensor:
        """float32 (batch, h, w)."""


class CodesFromNoise(nn.Module):
    """Codes int64 (batch, h, w), all equally likely, from uniform noise of the same shape."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, noise: Tensor) -> Tensor:
        """The codes."""
        return (noise * self.rows).floor().clamp(0, self.rows - 1).to(torch.int64)


class CodesFromPixels(nn.Module):
    """Codes int64 (batch, h, w) of pixels uint8 (batch, H, W, colors)."""

    def __init__(self, reader: nn.Module) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, pixels: Tensor) -> Tensor:
        """The codes."""
        codes: Tensor = self.reader(picture_from_pixels(pixels))
        return codes


def picture_from_pixels(pixels: Tensor) -> Tensor:
    """Pictures float32 (batch, colors, H, W) in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32) / HALF_LEVELS - 1


def load_vq_gan(checkpoint: Path, *, config: Path | None = None, size: int | None = None) -> FamilyNetworks:
    """Return VQ-GAN, VQ or Gumbel: codes to picture, and picture to codes if the checkpoint has the encoder.

    `config` is its yaml file, `size` the height and width of its pictures in pixels.
    """
    state = state_from_checkpoint(read_checkpoint(checkpoint), inside=("state_dict",))
    needed = decoder_state(state)
    decoder = vq_gan_from_state(needed)
    load_state(decoder, needed, checkpoint.name)
    encoder = None
    if any(key.startswith(ENCODER_KEYS) for key in state):  # some checkpoints hold the decoder alone
        encoder = vq_gan_encoder_from_state(state)
        load_state(encoder, encoder_state(state), checkpoint.name)
    known = resolution_from_file(config) if size is None and config is not None else size
    return _networks(
        decoder,
        encoder,
        rows=decoder.quantize.embedding.num_embeddings,
        colors=decoder.decoder.conv_out.out_channels,
        pixels_per_code=2 ** (len(decoder.decoder.up) - 1),
        size=known or VQ_GAN_PIXELS,
        assumed={} if known else {"size": VQ_GAN_PIXELS},
    )


def resolution_from_file(path: Path) -> int:
    """The pixels of a side that a configuration names as `resolution`; UsageError where it names none."""
    try:
        found = _RESOLUTION.findall(path.read_text("utf-8"))
    except UnicodeDecodeError:
        found = []
    if not found:
        raise UsageError(f"{path} names no resolution", "give the yaml file of VQ-GAN's model")
    return int(found[0])


def load_vq_vae(checkpoint: Path, *, size: int | None = None) -> FamilyNetworks:
    """Both directions of VQ-VAE; `size` is that of its pictures."""
    model = network_from_file(checkpoint)
    return _networks(
        PictureFromCodes(model),
        CodesFromPicture(model),
        rows=model.config.codebook_size,
        colors=model.config.colors,
        pixels_per_code=PIXELS_PER_CODE,
        size=size or VQ_VAE_PIXELS,
        assumed={} if size else {"size": VQ_VAE_PIXELS},
    )


def _networks(
    decoder: nn.Module,
    encoder: nn.Module | None,
    *,
    rows: int,
    colors: int,
    pixels_per_code: int,
    size: int,
    assumed: Mapping[str, int],
) -> FamilyNetworks:
    grid = size // pixels_per_code
    if not grid or size % pixels_per_code:
        raise UsageError(f"pictures of {size} pixels", f"give a multiple of {pixels_per_code}")
    drawn = tensor("codes", "int64", grid, grid, limit=rows)
    pixels = tensor("image", "uint8", size, size, colors)
    read = tensor("codes_of_image", "int64", grid, grid, limit=rows)

    stages = [
        stage("codes", CodesFromNoise(rows), (tensor("noise", "float32", grid, grid),), (drawn,)),
        stage("decoder", decoder, (drawn,), (tensor("image", "float32", colors, size, size),)),
    ]
    tables = {drawn.name: rows}
    if encoder is not None:
        reader: PictureReader = encoder  # type: ignore[assignment]

        @torch.no_grad()
        def margins(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {read.name: reader.margins(picture_from_pixels(inputs[pixels.name]))}

        stages.append(stage("encoder", CodesFromPixels(encoder), (pixels,), (read,), margins))
        tables[read.name] = rows
    return FamilyNetworks(
        stages=tuple(stages),
        image_size=(size, size),
        image_range=(-1.0, 1.0),
        noise=(NoiseSpec(shape=(grid, grid), law="uniform"),),
        tables=tables,
        assumed=assumed,
    )
