"""Pictures to codes and back, as the published code of VQ-GAN and VQ-VAE gives them for random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from family_graphs import compare_graph
from random_weights import random_state
from torch import nn

from textual_vision.export.families import vq_gan
from textual_vision.export.families.parts import stage, tensor
from textual_vision.export.families.quantizers import vq_gan_encoder, vq_vae
from textual_vision.export.families.weights import load_state
from textual_vision.runtime.noise import noise_from_seed

DATA = Path(__file__).parents[2] / "data" / "families"
TOLERANCE = 1e-5
SIZE, COLORS, CODEBOOK, WIDTH = 32, 3, 24, 8
PICTURE = 0.5 * torch.from_numpy(noise_from_seed(3, 2, COLORS * SIZE * SIZE).reshape(2, COLORS, SIZE, SIZE))
VQ_VAE = vq_vae.VqVaeConfig(
    colors=COLORS, hidden=16, residual_hidden=6, residual_layers=2, codebook_size=CODEBOOK, embed_dim=WIDTH
)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def vq_gan_state(gumbel):
    """The state dict that the published code saves, without its loss."""
    config = vq_gan.DecoderConfig(
        latent=WIDTH, widths=(32, 64), blocks=2, attention=(False, True), colors=COLORS
    )
    encoder = vq_gan_encoder.Encoder(
        colors=COLORS, widths=(32, 64), blocks=1, attention=(False, True), latent=WIDTH
    )
    quantizer = (
        vq_gan_encoder.LikeliestCode(WIDTH, CODEBOOK)
        if gumbel
        else vq_gan_encoder.NearestRow(CODEBOOK, WIDTH)
    )
    parts: list[nn.Module] = [vq_gan_encoder.VqGanEncoder(encoder, quantizer, WIDTH, WIDTH)]
    parts.append(vq_gan.VqGanDecoder(config, codebook_size=CODEBOOK, embed_dim=WIDTH))
    state = {key: one for part in parts for key, one in random_state(part).items()}
    if gumbel:
        embed = nn.ModuleDict({"quantize": nn.ModuleDict({"embed": nn.Embedding(CODEBOOK, WIDTH)})})
        state |= random_state(embed)
    return state


@pytest.mark.parametrize("gumbel", [False, True])
def test_vq_gan_gives_the_codes_and_the_picture_of_the_original_code(gumbel):
    name = "gumbel" if gumbel else "vq"
    with np.load(DATA / "vq-gan" / "encoded.npz") as arrays:
        codes, image = (torch.from_numpy(arrays[f"{name}_{kind}"]) for kind in ("codes", "image"))
    state = vq_gan_state(gumbel)
    encoder = vq_gan_encoder.vq_gan_encoder_from_state(state)
    load_state(encoder, vq_gan_encoder.encoder_state(state), "encoder")
    found = encoder.eval()(PICTURE)
    assert torch.equal(found, codes.long())
    needed = vq_gan.decoder_state(state)
    decoder = vq_gan.vq_gan_from_state(needed)
    load_state(decoder, needed, "decoder")
    assert (decoder.eval()(found)[:, :, ::4, ::4] - image).abs().max() < TOLERANCE


@pytest.fixture
def model(tmp_path):
    """VQ-VAE from a file as the common implementation saves it; its residual layers share their weights."""
    state = random_state(vq_vae.VqVae(VQ_VAE))
    shared = {key: state[key.replace(".stack.1.", ".stack.0.")] for key in state}
    torch.save({"model": shared, "results": {}, "hyperparameters": {}}, tmp_path / "vqvae.pth")
    return vq_vae.network_from_file(tmp_path / "vqvae.pth")


def test_vq_vae_gives_the_codes_and_the_picture_of_the_common_implementation(model):
    with np.load(DATA / "vq-vae" / "expected.npz") as arrays:
        codes, image = (torch.from_numpy(arrays[name]) for name in ("codes", "image"))
    assert model.config == VQ_VAE
    found = model.encode(PICTURE)
    assert torch.equal(found, codes)
    assert (model.decode(found)[:, :, ::2, ::2] - image).abs().max() < TOLERANCE


@pytest.mark.slow
def test_all_directions_export(model):
    state = vq_gan_state(False)
    encoder = vq_gan_encoder.vq_gan_encoder_from_state(state)
    load_state(encoder, vq_gan_encoder.encoder_state(state), "encoder")
    picture = (tensor("picture", "float32", COLORS, SIZE, SIZE),)
    small = (tensor("codes", "int64", SIZE // 4, SIZE // 4, limit=CODEBOOK),)
    large = (tensor("codes", "int64", SIZE // 2, SIZE // 2, limit=CODEBOOK),)
    assert compare_graph(stage("encode", encoder, picture, large), TOLERANCE) > 0
    assert compare_graph(stage("encode", vq_vae.CodesFromPicture(model), picture, small), TOLERANCE) > 0
    assert compare_graph(stage("decode", vq_vae.PictureFromCodes(model), small, picture), TOLERANCE) > 0
