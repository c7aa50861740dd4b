"""Small checkpoints with random weights in the layouts of the published code, as files for `--family`."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import torch
from clip_files import random_tower, write_merges
from random_weights import random_state, random_tensor

from textual_vision.export.families import attngan, damsm, dcgan, galip
from textual_vision.export.families.clip.blocks import Transformer
from textual_vision.export.families.min_dalle.decoder import BartDecoder
from textual_vision.export.families.min_dalle.encoder import BartEncoder
from textual_vision.export.families.min_dalle.layers import BartConfig
from textual_vision.export.families.mirrorgan import captioning, generator
from textual_vision.export.families.quantizers import vq_vae
from textual_vision.export.families.text_style_gan import generator as style_gan
from textual_vision.export.families.vq_diffusion.transformer import CodeTransformer, TransformerConfig
from textual_vision.export.families.vq_gan import DecoderConfig, VqGanDecoder

DATA = Path(__file__).parents[1] / "data" / "families"
WORDS = ("<end>", "a", "small", "red", "blue", "black", "bird", "with", "the", "white", "belly", "is", "this")
WORD, NOISE = 12, 6  # channels
CLIP_ROWS, CLIP_TOKENS = 560, 8
STAGES = ((64, 8, 32, 1), (32, 16, 64, 2), (64, 32, 128, 1), (128, 64, 256, 1))  # in, hidden, out, blocks


def write_damsm(folder, width=WORD):
    """text_encoder.pth and captions.pickle."""
    encoder = damsm.RnnEncoder(vocabulary=len(WORDS), embedding=8, width=width)
    torch.save(random_state(encoder), folder / "text_encoder.pth")
    ids = {word: number for number, word in enumerate(WORDS)}
    captions = [[], [], dict(enumerate(WORDS)), ids]
    (folder / "captions.pickle").write_bytes(pickle.dumps(captions, 2))


def write_dcgan(folder):
    """netG_epoch_24.pth."""
    shutil.copy(DATA / "dcgan" / "netG_epoch_24.pth", folder)


def write_cgan(folder):
    """generator.pth of 7 classes."""
    network = dcgan.CganGenerator(classes=7, embedding=7, noise_dim=10, widths=(64, 128, 3 * 16 * 16))
    torch.save(random_state(network), folder / "generator.pth")


def write_df_gan(folder):
    """The three files of DF-GAN."""
    for path in (DATA / "df-gan").glob("*.p*"):
        shutil.copy(path, folder)


def write_attngan(folder):
    """bird_AttnGAN2.pth and DAMSM's files."""
    sizes = {"width": 4, "word": WORD, "condition": 5, "noise_dim": NOISE, "residual": 1, "stages": 3}
    torch.save(random_state(attngan.AttnGanGenerator(**sizes)), folder / "bird_AttnGAN2.pth")
    write_damsm(folder)


def small_resnet():
    """A ResNet in the layout of the captioning network, with an eighth of its channels."""
    layers = [torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(64), torch.nn.ReLU()]
    layers.append(torch.nn.MaxPool2d(3, 2, 1))
    for number, (before, hidden, after, blocks) in enumerate(STAGES):
        stride = 2 if number else 1
        first = captioning.Bottleneck(before, hidden, hidden, after, stride, True)
        rest = [captioning.Bottleneck(after, hidden, hidden, after, 1, False) for _ in range(blocks - 1)]
        layers.append(torch.nn.Sequential(first, *rest))
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1))


def write_mirrorgan(folder):
    """netG.pth, DAMSM's files, and the two of the captioning network."""
    sizes = {"width": 4, "word": WORD, "condition": 20, "noise_dim": NOISE, "residual": 1, "stages": 3}
    torch.save(random_state(generator.MirrorGanGenerator(**sizes)), folder / "netG.pth")
    write_damsm(folder)
    cnn = captioning.PictureEncoder(small_resnet(), 256, 7)
    torch.save(random_state(cnn, "cnn."), folder / "caption_cnn.pkl")
    rnn = captioning.CaptionDecoder(vocabulary=len(WORDS), width=7, hidden=9, layers=1)
    torch.save(random_state(rnn, "rnn."), folder / "caption_rnn.pkl")


def write_text_style_gan(folder):
    """train_step.model in the layout of a common StyleGAN, of 32 pixels, and DAMSM's files."""
    config = style_gan.StyleConfig(
        latent=6 + 10,
        style=16,
        mapping=8,
        widths=(16, 16, 12, 8),
        kinds=(style_gan.CONSTANT, style_gan.REPEATED, style_gan.REPEATED, style_gan.FUSED),
        colors=3,
    )
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
    state = {}
    for key, value in style_gan.StyleGenerator(config, 4).state_dict().items():
        if key.endswith(("conv1.1.weight", "conv1.2.weight")):
            state[key] = state[f"{key}_flip"] = kernel.expand_as(value)
        elif key.endswith("conv1.0.weight"):
            state[key] = random_tensor(key, value[:, :, :3, :3])
        elif key.endswith(".weight"):
            state[f"{key}_orig"] = random_tensor(f"{key}_orig", value)
        else:
            state[key] = random_tensor(key, value)
    torch.save({"g_running": state, "generator": {}}, folder / "train_step.model")
    write_damsm(folder, width=6)


def write_galip(folder):
    """state_epoch_1.pth, clip.pt and the merges."""
    config = galip.GalipConfig(
        noise=10,
        sentence=24,
        code=(64, 7),
        hidden=32,
        fusions=4,
        vision=128,
        widths=(32, 32, 32, 32, 16, 8, 4),
        colors=3,
    )
    network = galip.GalipGenerator(config, galip.VisionTower(128, 50, Transformer(128, 12, 2)), 8)
    state = {**random_state(network), galip.UNUSED: torch.zeros(128, 3, 32, 32)}
    torch.save({"model": {"netG": state, "netD": {}}, "epoch": 3}, folder / "state_epoch_1.pth")
    tower = random_tower(rows=CLIP_ROWS, context=CLIP_TOKENS, projection=24)
    torch.save(tower.state_dict(), folder / "clip.pt")
    write_merges(folder / "merges.txt", CLIP_ROWS)


def write_vq_gan(folder):
    """last.ckpt and model.yaml."""
    for path in (DATA / "vq-gan").glob("*.[cy]*"):
        shutil.copy(path, folder)


def write_vq_vae(folder):
    """vqvae_data.pth."""
    config = vq_vae.VqVaeConfig(
        colors=3, hidden=32, residual_hidden=16, residual_layers=2, codebook_size=24, embed_dim=8
    )
    saved = {"model": random_state(vq_vae.VqVae(config)), "results": {}, "hyperparameters": {}}
    torch.save(saved, folder / "vqvae_data.pth")


def log_tables():
    """The logarithms of a process of ten timesteps over 20 codes, as the original code saves them."""
    with np.load(DATA / "vq-diffusion" / "expected.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays if name.startswith("log_")}


def write_vq_diffusion(folder):
    """last.pth and the merges; its unaveraged weights are all 0."""
    codes, grid, rows, timesteps = 20, 4, CLIP_ROWS, 10
    config = TransformerConfig(
        codes=codes,
        width=32,
        condition=64,
        hidden=128,
        blocks=2,
        heads=2,
        grid=(grid, grid),
        steps=timesteps,
        tables=True,
    )
    tower = random_tower(rows=rows, context=CLIP_TOKENS, projection=16, prefix="condition_emb.")
    state = {f"condition_emb.{key}": one for key, one in tower.state_dict().items()}
    network = random_state(CodeTransformer(config, timesteps), "transformer.")
    state |= {f"transformer.{key}": one for key, one in network.items()}
    state |= log_tables()
    picture = DecoderConfig(latent=8, widths=(32, 32), blocks=1, attention=(False, False), colors=3)
    decoder = random_state(VqGanDecoder(picture, codebook_size=codes, embed_dim=8))
    model = {f"transformer.{key}": torch.zeros_like(one) for key, one in state.items()}
    model |= {f"content_codec.dec.{key}": one for key, one in decoder.items()}
    torch.save({"model": model, "ema": state, "last_epoch": 3}, folder / "last.pth")
    write_merges(folder / "merges.txt", rows)


def write_paella(folder):
    """paella.pt, vqgan.pt and the folder of ByT5."""
    shutil.copytree(DATA / "paella", folder, dirs_exist_ok=True)


def write_min_dalle(folder):
    """The five files of min-dalle."""
    tokens, width, codes = 16, 64, 41
    words = ("<s>", "<pad>", "</s>", "<unk>", "Ġ", *"abcdeghiort", "Ġa", "Ġc", "Ġca", "Ġcat", "re", "red")
    merges = ("Ġ a", "Ġ c", "Ġc a", "Ġca t", "r e", "re d", "Ġ red")
    sizes = {"width": width, "hidden": 48, "layers": 2, "heads": 1}
    encoder = BartEncoder(BartConfig(vocabulary=120, positions=tokens, **sizes))
    decoder = BartDecoder(BartConfig(vocabulary=codes, positions=256, **sizes), codes)
    torch.save(random_state(encoder, "encoder."), folder / "encoder.pt")
    torch.save(random_state(decoder, "decoder."), folder / "decoder.pt")
    config = DecoderConfig(latent=8, widths=(32, 32), blocks=1, attention=(False, True), colors=3)
    picture = random_state(VqGanDecoder(config, codebook_size=codes, embed_dim=8))
    renamed = {key.removeprefix("quantize."): one for key, one in picture.items()}
    torch.save(renamed, folder / "detoker.pt")
    ids = {word: index for index, word in enumerate((*words, "Ġred"))}
    (folder / "vocab.json").write_text(json.dumps(ids), "utf-8")
    (folder / "merges.txt").write_text("\n".join(("#version: 0.2", *merges, "")), "utf-8")


WRITERS = {
    "dcgan": write_dcgan,
    "cgan": write_cgan,
    "df-gan": write_df_gan,
    "attngan": write_attngan,
    "mirrorgan": write_mirrorgan,
    "textstylegan": write_text_style_gan,
    "galip": write_galip,
    "vq-gan": write_vq_gan,
    "vq-vae": write_vq_vae,
    "vq-diffusion": write_vq_diffusion,
    "paella": write_paella,
    "min-dalle": write_min_dalle,
}
