"""Paella's networks give what the published code gives for the same random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from family_graphs import compare_graph, run_family
from torch.nn import functional as F

from textual_vision.export.families.paella import loading
from textual_vision.export.families.paella.byte_tokenizer import byte_tokenizer
from textual_vision.export.families.paella.sampler import PaellaSchedule, PaellaStep
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.text.tokenizer import Tokenizer

DATA = Path(__file__).parents[2] / "data" / "families" / "paella"
TOLERANCE = 1e-5
GRID, STEPS, GUIDANCE = 16, 6, 8.0
CERTAIN = 1e4  # noise that decides a draw
PROMPTS = (0, 1)


@pytest.fixture(scope="module")
def networks():
    return loading.load_paella(
        DATA / "paella.pt",
        DATA / "vqgan.pt",
        DATA / "byt5",
        grid=GRID,
        steps=STEPS,
    )


@pytest.fixture(scope="module")
def expected():
    with np.load(DATA / "expected.npz") as arrays:
        return {name: arrays[name] for name in arrays}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def tensors(expected, index, *names):
    return [torch.from_numpy(expected[f"{name}_{index}"]) for name in names]


def condition_of(networks, ids, padding=3):
    mask = F.pad(torch.ones_like(ids), (0, padding))
    return networks.module("text_encoder")(F.pad(ids, (0, padding)), mask), mask


def test_the_tokenizer_gives_the_ids_of_byt5(expected):
    tokenizer = Tokenizer(*byte_tokenizer())
    for index in PROMPTS:
        tokens = tokenizer.encode([str(expected["captions"][index])])
        assert np.array_equal(tokens.ids, expected[f"ids_{index}"])
    assert tokenizer.encode(["é"]).ids.tolist() == [[0xC3 + 3, 0xA9 + 3, 1]]


@pytest.mark.parametrize("index", PROMPTS)
def test_the_text_encoder_gives_the_features_of_byt5(networks, expected, index):
    ids, wanted = tensors(expected, index, "ids", "text")
    mask = F.pad(torch.ones_like(ids), (0, 3))
    found = networks.module("text_encoder").encoder(F.pad(ids, (0, 3)), mask)
    assert (found[:, : ids.shape[1]] - wanted).abs().max() < TOLERANCE


@pytest.mark.parametrize("index", PROMPTS)
def test_the_network_gives_the_logits_of_the_original_code(networks, expected, index):
    ids, first, wanted = tensors(expected, index, "ids", "first", "step_logits_at_07")
    condition, mask = condition_of(networks, ids)
    logits = networks.module("step").network(first, torch.tensor([0.7]), condition, mask)
    assert (logits - wanted).abs().max() < TOLERANCE


@pytest.mark.parametrize("index", PROMPTS)
def test_the_decoder_gives_the_picture_of_the_original_code(networks, expected, index):
    codes, wanted = tensors(expected, index, "codes", "image")
    picture = networks.module("decoder")(codes).clamp(0, 1)
    assert picture.shape[2:] == networks.image_size
    assert (picture - wanted).abs().max() < TOLERANCE


@pytest.mark.parametrize("index", PROMPTS)
def test_six_steps_give_the_codes_of_the_original_code(networks, expected, index):
    """The original ran with a constant, negative noise in every draw, so that the least likely code wins."""
    ids, first, uniforms, wanted = tensors(expected, index, "ids", "first", "uniforms", "codes")
    condition, mask = condition_of(networks, ids)
    step, loop = networks.module("step"), networks.loops[0]
    scale, codes = torch.tensor([GUIDANCE]), first
    assert loop.steps == STEPS
    for number in range(STEPS):
        values = {name: torch.tensor([table[number]]) for name, table in loop.tables.items()}
        logits = step.guided(codes, values["time"], condition, mask, scale)
        least = (logits / values["temperature"]).softmax(1).argmin(1)
        gumbel = F.one_hot(least, logits.shape[1]).permute(0, 3, 1, 2) * CERTAIN
        noise = uniforms[number] if number < STEPS - 1 else uniforms[0]
        codes = step(codes, condition, mask, first, *values.values(), scale, gumbel, noise)
    assert torch.equal(codes, wanted)


def test_gumbel_noise_draws_as_exponential_noise_does(networks, expected):
    """The exponential race of torch.multinomial, argmax(p / e), with e = exp(-gumbel)."""
    ids, first = tensors(expected, 0, "ids", "first")
    condition, mask = condition_of(networks, ids)
    step = networks.module("step")
    exponentials = torch.empty(1, networks.tables["codes"], GRID, GRID).exponential_(
        generator=torch.Generator().manual_seed(3)
    )
    time, temperature, scale = torch.tensor([0.7]), torch.tensor([0.6]), torch.tensor([2.0])
    logits = step.guided(first, time, condition, mask, scale)
    wanted = ((logits / 0.6).softmax(1) / exponentials).argmax(1)
    nothing = torch.ones(1, GRID, GRID)
    found = step(
        first, condition, mask, first, time, time * 0, temperature, scale, -exponentials.log(), nothing
    )
    assert (found == wanted).float().mean() > 0.99


def test_renoising_restores_the_first_codes_where_uniforms_are_below_the_next_time(networks, expected):
    ids, first = tensors(expected, 0, "ids", "first")
    condition, mask = condition_of(networks, ids)
    step: PaellaStep = networks.module("step")
    uniforms = torch.linspace(0.01, 0.99, GRID * GRID).view(1, GRID, GRID)
    one = torch.ones(1)
    gumbel = F.one_hot((first + 1) % 64, 64).permute(0, 3, 1, 2) * CERTAIN
    found = step(first, condition, mask, first, one, one * 0.5, one, one, gumbel, uniforms)
    assert torch.equal(found == first, uniforms <= 0.5)


def test_the_first_codes_are_uniform(networks):
    uniforms = torch.tensor([[[0.0001, 0.5], [0.9999999, 0.2501]]])
    assert networks.module("start")(uniforms).tolist() == [[[0, 32], [63, 16]]]


def test_the_declared_loop_draws_one_picture_for_each_seed(networks, expected):
    ids, mask = (np.repeat(array, 2, 0) for array in (expected["ids_1"], np.ones_like(expected["ids_1"])))
    both = run_family(networks, {"input_ids": ids, "attention_mask": mask}, (3, 4))
    alone = run_family(networks, {"input_ids": ids[:1], "attention_mask": mask[:1]}, (4,))
    assert both["image"].shape == (2, 3, *networks.image_size)
    assert np.mean(both["codes"][1] == alone["codes"][0]) > 0.99
    assert np.any(both["codes"][0] != both["codes"][1])


def test_a_schedule_of_no_steps_is_refused():
    with pytest.raises(UsageError, match="0 steps"):
        PaellaSchedule(steps=0, renoise_steps=0).tables()


def test_a_decoder_in_the_place_of_the_network_is_refused():
    with pytest.raises(IntegrityError, match="lacks"):
        loading.network_from_file(DATA / "vqgan.pt")
    with pytest.raises(IntegrityError, match="lacks"):
        loading.decoder_from_file(DATA / "paella.pt")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_encoder", "start", "step", "decoder"])
def test_each_stage_exports_for_any_batch_and_prompt(networks, name):
    stage = next(one for one in networks.stages if one.spec.name == name)
    assert compare_graph(stage, 1e-4) > 0
