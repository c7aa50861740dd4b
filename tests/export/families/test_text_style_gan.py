"""StyleGAN's generator gives what a common PyTorch implementation gives for the same random weights."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from family_graphs import compare_graph, run_family
from random_weights import random_state, random_tensor

from textual_vision.export.families import damsm
from textual_vision.export.families.text_style_gan import generator, loading
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.noise import noise_from_seed

DATA = Path(__file__).parents[2] / "data" / "families" / "text-style-gan"
TOLERANCE = 5e-4  # of values of 20 and less
SENTENCE, NOISE, ROWS = 6, 10, 30
CONFIG = generator.StyleConfig(
    latent=SENTENCE + NOISE,
    style=16,
    mapping=8,
    widths=(16, 16, 16, 16, 12, 8, 64, 32, 16),
    kinds=(generator.CONSTANT, *[generator.REPEATED] * 4, *[generator.FUSED] * 4),
    colors=3,
)
LEVELS, SIZE = 6, 128
KERNEL = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def published_state():
    """The layout that the implementation saves: equalized weights, filters with their flipped copies."""
    state = {}
    for key, value in generator.StyleGenerator(CONFIG, LEVELS).state_dict().items():
        if key.endswith(("conv1.1.weight", "conv1.2.weight")):
            state[key] = state[f"{key}_flip"] = KERNEL.expand_as(value)
        elif key.endswith("conv1.0.weight"):
            state[key] = random_tensor(key, value[:, :, :3, :3])
        elif key.endswith(".weight"):
            state[f"{key}_orig"] = random_tensor(f"{key}_orig", value)
        else:
            state[key] = random_tensor(key, value)
    return state


@pytest.fixture
def files(tmp_path):
    torch.save({"g_running": published_state(), "generator": {}}, tmp_path / "step.model")
    encoder = damsm.RnnEncoder(vocabulary=ROWS, embedding=8, width=SENTENCE)
    torch.save(random_state(encoder), tmp_path / "text.pth")
    words = {f"word{number}": number for number in range(ROWS)}
    captions = [[], [], {number: word for word, number in words.items()}, words]
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps(captions, 2))
    return [tmp_path / name for name in ("step.model", "text.pth", "captions.pickle")]


def test_the_picture_is_that_of_the_common_implementation(files):
    with np.load(DATA / "expected.npz") as arrays:
        wanted = torch.from_numpy(arrays["image"])
    assert len(published_state()) == 139
    network = loading.generator_from_file(files[0], SIZE)
    latent = torch.from_numpy(noise_from_seed(9, 2, SENTENCE + NOISE))
    noise = [
        torch.from_numpy(noise_from_seed(30 + level, 2, size * size).reshape(2, 1, size, size))
        for level, size in enumerate(network.sizes)
    ]
    picture = network(latent[:, NOISE:], latent[:, :NOISE], *noise)
    assert picture.shape == (2, 3, SIZE, SIZE)
    assert (picture[:, :, ::4, ::4] - wanted).abs().max() < TOLERANCE


def test_prompt_and_seed_decide_the_picture(files):
    networks = loading.load_text_style_gan(*files, size=16)
    ids, mask = np.array([[3, 4, 5], [6, 7, 8]]), np.ones((2, 3), np.int64)
    prompt = {"input_ids": ids[[0, 1, 0]], "attention_mask": mask[[0, 1, 0]]}
    pictures = run_family(networks, prompt, (1, 1, 2))["image"]
    assert pictures.shape == (3, 3, 16, 16)
    assert np.abs(pictures[0] - pictures[1]).max() > 0.1
    assert np.abs(pictures[0] - pictures[2]).max() > 0.1


def test_a_sentence_that_fills_the_latent_is_refused(files, tmp_path):
    encoder = damsm.RnnEncoder(vocabulary=ROWS, embedding=8, width=16)
    torch.save(encoder.state_dict(), tmp_path / "wide.pth")
    with pytest.raises(UsageError, match="takes 16 values, the sentence has 16"):
        loading.load_text_style_gan(files[0], tmp_path / "wide.pth", files[2])


@pytest.mark.parametrize("size", [0, 2, 100])
def test_a_size_that_is_no_power_of_two_is_refused(size):
    with pytest.raises(UsageError, match=f"pictures of {size} pixels"):
        loading.levels_from_size(size)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_encoder", "generator"])
def test_each_stage_exports_for_any_batch_and_prompt(files, name):
    networks = loading.load_text_style_gan(*files, size=SIZE)
    stage = next(one for one in networks.stages if one.spec.name == name)
    assert compare_graph(stage, 1e-3) > 0
