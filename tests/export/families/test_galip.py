"""GALIP gives what the published code gives for the same random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from clip_files import random_tower, write_merges
from family_graphs import compare_graph
from random_weights import random_state

from textual_vision.export.families import galip
from textual_vision.export.families.clip.blocks import Transformer
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.noise import noise_from_seed

DATA = Path(__file__).parents[2] / "data" / "families" / "galip"
TOLERANCE = 1e-4  # of values of about 4
ROWS, CONTEXT, SENTENCE, NOISE, VISION = 560, 8, 24, 10, 128
SEED, KEPT_EVERY = 5, 7  # pixel of the expected picture
WIDTHS = (32, 32, 32, 32, 16, 8, 4)  # of 4 channels at 256 pixels
CONFIG = galip.GalipConfig(
    noise=NOISE,
    sentence=SENTENCE,
    code=(64, 7),
    hidden=32,
    fusions=4,
    vision=VISION,
    widths=WIDTHS,
    colors=3,
)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def state():
    """The layout of the published state dict, whose vision tower has a convolution that is never used."""
    tower = galip.VisionTower(VISION, 50, Transformer(VISION, 12, 2))
    found = random_state(galip.GalipGenerator(CONFIG, tower, 8))
    return {**found, galip.UNUSED: torch.zeros(VISION, 3, 32, 32)}


@pytest.fixture
def files(state, tmp_path):
    tower = random_tower(rows=ROWS, context=CONTEXT, projection=SENTENCE)
    torch.save({"model": {"netG": state, "netD": {}}, "epoch": 3}, tmp_path / "state.pth")
    torch.save(tower.state_dict(), tmp_path / "clip.pt")
    return tmp_path / "state.pth", tmp_path / "clip.pt", write_merges(tmp_path / "merges.txt", ROWS)


@pytest.fixture(scope="module")
def expected():
    with np.load(DATA / "expected.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def test_sentence_and_picture_are_those_of_the_original_code(files, state, expected):
    networks = galip.load_galip(*files)
    assert len(state) == 525
    sentence = networks.module("text_encoder")(expected["ids"])
    assert (sentence - expected["sentence"]).abs().max() < TOLERANCE
    noise = torch.from_numpy(noise_from_seed(SEED, 2, NOISE))
    picture = networks.module("generator")(sentence, noise)
    assert picture.shape == (2, 3, *networks.image_size)
    kept = picture[:, :, ::KEPT_EVERY, ::KEPT_EVERY]
    assert (kept - expected["image"]).abs().max() < TOLERANCE


def test_another_clip_is_refused(files, tmp_path):
    other = random_tower(rows=ROWS, context=CONTEXT, projection=16)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    with pytest.raises(UsageError, match=r"state.pth takes sentences of 24, other.pt gives 16"):
        galip.load_galip(files[0], tmp_path / "other.pt", files[2])


def test_a_missing_tensor_is_named(files, state, tmp_path):
    less = {key: one for key, one in state.items() if key != "mapping.CLIP_ViT.ln_pre.bias"}
    torch.save({"model": {"netG": less}}, tmp_path / "less.pth")
    with pytest.raises(IntegrityError, match=r"lacks 'mapping.CLIP_ViT.ln_pre.bias'"):
        galip.load_galip(tmp_path / "less.pth", *files[1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_encoder", "generator"])
def test_each_stage_exports_for_any_batch(files, name):
    networks = galip.load_galip(*files)
    stage = next(one for one in networks.stages if one.spec.name == name)
    assert compare_graph(stage, 1e-3, fixed_tokens=CONTEXT) > 0
