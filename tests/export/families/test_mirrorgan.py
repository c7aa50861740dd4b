"""MirrorGAN and its captioning network give what the published code gives for the same random weights."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from family_graphs import compare_graph
from random_weights import random_state
from torch import nn

from textual_vision.export.families import damsm
from textual_vision.export.families.mirrorgan import captioning, generator
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.noise import noise_from_seed

DATA = Path(__file__).parents[2] / "data" / "families" / "mirrorgan"
TOLERANCE = 1e-5
HALF_TOLERANCE = 1e-3  # where the expected values are kept as float16
PROMPTS = ((5, 9, 2, 17), (3, 11))
ROWS, WORD, NOISE, CONDITION, FEATURES, HIDDEN = 30, 12, 6, 100, 7, 9
SIZES = {"width": 4, "word": WORD, "condition": CONDITION, "noise_dim": NOISE, "residual": 1, "stages": 3}
STAGES = ((64, 8, 32, 1), (32, 16, 64, 2), (64, 32, 128, 1), (128, 64, 256, 1))  # in, hidden, out, blocks


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def small_resnet():
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for number, (before, hidden, after, blocks) in enumerate(STAGES):
        stride = 2 if number else 1
        first = captioning.Bottleneck(before, hidden, hidden, after, stride, True)
        rest = [captioning.Bottleneck(after, hidden, hidden, after, 1, False) for _ in range(blocks - 1)]
        layers.append(nn.Sequential(first, *rest))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))


@pytest.fixture
def files(tmp_path):
    """netG.pth, text_encoder.pth, captions.pickle, and the two files of the captioning network.

    As the original's constructor does, the ResNet's stages have 64 × 2ⁿ channels, here an eighth of them.
    """
    network = generator.MirrorGanGenerator(**SIZES)
    torch.save(random_state(network), tmp_path / "netG.pth")
    torch.save(
        random_state(damsm.RnnEncoder(vocabulary=ROWS, embedding=8, width=WORD)), tmp_path / "text.pth"
    )
    cnn = captioning.PictureEncoder(small_resnet(), 256, FEATURES)
    torch.save(random_state(cnn, "cnn."), tmp_path / "cnn.pkl")
    rnn = captioning.CaptionDecoder(vocabulary=ROWS, width=FEATURES, hidden=HIDDEN, layers=1)
    torch.save(random_state(rnn, "rnn."), tmp_path / "rnn.pkl")
    words = {f"word{number}": number for number in range(1, ROWS)} | {"<end>": 0}
    captions = [[], [], {number: word for word, number in words.items()}, words]
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps(captions, 2))
    paths = [tmp_path / name for name in ("netG.pth", "text.pth", "captions.pickle")]
    return paths, (tmp_path / "cnn.pkl", tmp_path / "rnn.pkl")


@pytest.fixture(scope="module")
def expected():
    with np.load(DATA / "expected.npz") as arrays:
        return {
            name: torch.stack([torch.from_numpy(arrays[f"{name}_{index}"]) for index in range(2)])
            for name in ("image_64", "image_128", "image_256", "sentence", "features", "caption")
        } | {name: torch.from_numpy(arrays[name]) for name in arrays}


def prompt():
    ids = torch.zeros(2, 5, dtype=torch.int64)
    for row, words in enumerate(PROMPTS):
        ids[row, : len(words)] = torch.tensor(words)
    return ids, (ids != 0).long()


def outputs_of(networks):
    ids, mask = prompt()
    words, sentence = networks.module("text_encoder")(ids, mask)
    noise, condition = (
        torch.from_numpy(noise_from_seed(seed, 2, size)) for seed, size in ((7, NOISE), (8, CONDITION))
    )
    return words, sentence, networks.module("generator")(words, sentence, mask, noise, condition)


def test_pictures_and_attention_are_those_of_the_original_code_run_one_prompt_at_a_time(files, expected):
    words, sentence, found = outputs_of(generator.load_mirrorgan(*files[0]))
    finest, middle, coarse, first_map, second_map = found
    assert (sentence - expected["sentence"][:, 0]).abs().max() < TOLERANCE
    assert (coarse[:, :, ::8, ::8] - expected["image_64"][:, 0]).abs().max() < TOLERANCE
    assert (middle[:, :, ::16, ::16] - expected["image_128"][:, 0]).abs().max() < TOLERANCE
    assert (finest[:, :, ::8, ::8] - expected["image_256"][:, 0].float()).abs().max() < HALF_TOLERANCE
    for row, prompt_words in enumerate(PROMPTS):
        count = len(prompt_words)
        assert (words[row, :, :count] - expected[f"words_{row}"][0]).abs().max() < TOLERANCE
        assert (
            first_map[row, :count, ::16, ::16] - expected[f"attention_64_{row}"][0]
        ).abs().max() < TOLERANCE
        assert (
            second_map[row, :count, ::32, ::32] - expected[f"attention_128_{row}"][0]
        ).abs().max() < TOLERANCE


def test_the_caption_and_its_loss_are_those_of_the_original_code(files, expected):
    networks = generator.load_mirrorgan(*files[0], *files[1])
    _, _, (finest, *_) = outputs_of(networks)
    captioner = networks.module("captioner")
    features = captioner.encoder(finest)
    assert (features - expected["features"][:, 0]).abs().max() < TOLERANCE
    assert torch.equal(captioner.decoder.greedy(features), expected["caption"][:, 0])
    wanted = torch.stack([expected[f"cross_entropy_{row}"] for row in range(2)])
    assert (captioner.decoder.cross_entropy(features, *prompt()) - wanted).abs().max() < TOLERANCE


def test_the_captioner_reads_the_pixels_that_are_shown(files, expected):
    networks = generator.load_mirrorgan(*files[0], *files[1])
    _, _, (finest, *_) = outputs_of(networks)
    pixels = ((finest + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    caption, loss = networks.module("captioner")(pixels, *prompt())
    wanted = torch.stack([expected[f"cross_entropy_{row}"] for row in range(2)])
    assert torch.equal(caption, expected["caption"][:, 0])
    assert (loss - wanted).abs().max() < 0.01


def test_attngans_generator_is_refused(files, tmp_path):
    state = torch.load(files[0][0])
    torch.save({key: one for key, one in state.items() if "sentence_vis" not in key}, tmp_path / "attn.pth")
    with pytest.raises(UsageError, match="no attention to the sentence"):
        generator.load_mirrorgan(tmp_path / "attn.pth", *files[0][1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_encoder", "generator", "captioner"])
def test_each_stage_exports_for_any_batch_and_prompt(files, name):
    networks = generator.load_mirrorgan(*files[0], *files[1])
    stage = next(one for one in networks.stages if one.spec.name == name)
    assert compare_graph(stage, 1e-3) > 0
