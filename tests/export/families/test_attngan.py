"""AttnGAN's generator gives what the published code gives for the same random weights."""

from pathlib import Path

import numpy as np
import torch
from random_weights import random_state

from textual_vision.export.families import attngan
from textual_vision.runtime.noise import noise_from_seed

DATA = Path(__file__).parents[2] / "data" / "families" / "attngan"
TOLERANCE = 1e-5
WORD, NOISE, CONDITION, LENGTHS = 12, 6, 5, (5, 3)
SIZES = {"width": 4, "word": WORD, "condition": CONDITION, "noise_dim": NOISE, "residual": 2, "stages": 3}


def test_pictures_and_attention_are_those_of_the_original_code_run_one_prompt_at_a_time():
    state = random_state(attngan.AttnGanGenerator(**SIZES))
    module = attngan.generator_from_state(state)
    module.load_state_dict(state)
    words, sentence, noise, condition = (
        torch.from_numpy(noise_from_seed(seed, 2, size))
        for seed, size in ((4, WORD * max(LENGTHS)), (5, WORD), (7, NOISE), (8, CONDITION))
    )
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    with torch.no_grad():
        pictures, maps = module.eval()(words.unflatten(1, (WORD, -1)), sentence, mask, noise, condition)
    with np.load(DATA / "expected.npz") as arrays:
        for row, count in enumerate(LENGTHS):
            for picture, size, every in zip(pictures, (64, 128, 256), (8, 16, 16), strict=True):
                wanted = torch.from_numpy(arrays[f"image_{size}_{row}"])[0]
                assert (picture[row, :, ::every, ::every] - wanted).abs().max() < TOLERANCE
            for weights, size in zip(maps, (64, 128), strict=True):
                wanted = torch.from_numpy(arrays[f"attention_{size}_{row}"])[0]
                kept = weights[row, :count, :: size // 4, :: size // 4]
                assert (kept - wanted).abs().max() < TOLERANCE
