"""VQ-Diffusion gives what the published code gives for the same random weights and the same noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from clip_files import random_tower, write_merges
from family_graphs import compare_graph, run_family
from random_weights import random_state, random_tensor

from textual_vision.export.families.vq_diffusion import loading
from textual_vision.export.families.vq_diffusion.diffusion import DiffusionSchedule, truncated
from textual_vision.export.families.vq_diffusion.transformer import CodeTransformer, TransformerConfig
from textual_vision.export.families.vq_gan import DecoderConfig, VqGanDecoder
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.noise import stream_of, values_from_words, words_from_seed

DATA = Path(__file__).parents[2] / "data" / "families" / "vq-diffusion"
TOLERANCE = 1e-4  # of logarithms down to -70
CODES, GRID, TIMESTEPS, SEEDS = 20, 4, 10, (11, 12)
ROWS, CONTEXT, WIDTH = 560, 8, 64
CONFIG = TransformerConfig(
    codes=CODES,
    width=32,
    condition=WIDTH,
    hidden=128,
    blocks=2,
    heads=2,
    grid=(GRID, GRID),
    steps=TIMESTEPS,
    tables=True,
)
DECODER = DecoderConfig(latent=8, widths=(32, 32), blocks=1, attention=(False, False), colors=3)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def expected():
    with np.load(DATA / "expected.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def diffusion_state(expected, learned):
    """The state dict that the published code saves, as far as it is random; masks and statistics as there."""
    tower = random_tower(rows=ROWS, context=CONTEXT, projection=16, prefix="condition_emb.")
    state = {f"condition_emb.{key}": one for key, one in tower.state_dict().items()}
    network = random_state(CodeTransformer(CONFIG, TIMESTEPS), "transformer.")
    state |= {f"transformer.{key}": one for key, one in network.items()}
    state |= {key: one for key, one in expected.items() if key.startswith("log_")}
    state |= {f"transformer.blocks.{index}.attn2.mask": torch.ones(1, 1, 16, 16) for index in range(2)}
    state |= {"Lt_history": torch.zeros(TIMESTEPS), "Lt_count": torch.zeros(TIMESTEPS)}
    if learned:
        empty = torch.zeros(CONTEXT, WIDTH, dtype=torch.float64)
        state["empty_text_embed"] = random_tensor("empty_text_embed", empty)
    return state


@pytest.fixture
def files(tmp_path, expected):
    """Writes last.pth and the merges; its unaveraged weights are all 0."""

    def write(*, learned=False, rows=CODES):
        state = diffusion_state(expected, learned)
        decoder = random_state(VqGanDecoder(DECODER, codebook_size=rows, embed_dim=8))
        model = {f"transformer.{key}": torch.zeros_like(one) for key, one in state.items()}
        model |= {f"content_codec.dec.{key}": one for key, one in decoder.items()}
        torch.save({"model": model, "ema": state, "last_epoch": 3}, tmp_path / "last.pth")
        return tmp_path / "last.pth", write_merges(tmp_path / "merges.txt", ROWS)

    return write


def gumbel_of(step):
    words = [words_from_seed(seed, 1, (CODES + 1) * GRID**2, stream_of(0, step)) for seed in SEEDS]
    return torch.from_numpy(
        values_from_words(np.concatenate(words), "gumbel").reshape(len(SEEDS), CODES + 1, GRID**2)
    )


def step_from(expected, learned, guidance):
    state = diffusion_state(expected, learned)
    transformer = loading.transformer_from_state(state, "last.pth", 2)
    text = loading.DiffusionText(loading.text_from_state(state, "last.pth"), WIDTH)
    posterior = loading.posterior_from_state(state, CODES, "last.pth")
    empty = loading.unconditional_features(text, state)
    step = loading.DiffusionStep(transformer, posterior, empty).eval()
    return step, text.eval()(expected["ids"]), torch.full((2,), guidance)


@pytest.mark.parametrize(
    ("name", "learned", "guidance", "rate", "stride"),
    [("plain", False, 1.0, 0.86, 1), ("guided", True, 3.0, 0.9, 1), ("fast", False, 2.0, 0.86, 2)],
)
def test_all_steps_give_the_codes_of_the_original_code(expected, name, learned, guidance, rate, stride):
    step, condition, scale = step_from(expected, learned, guidance)
    codes, found = torch.full((2, GRID, GRID), CODES), []
    wanted = expected[f"{name}_codes"].long()
    tables = DiffusionSchedule(timesteps=TIMESTEPS, stride=stride).tables()
    assert len(tables["timestep"]) == len(wanted)
    for number, times in enumerate(zip(*tables.values(), strict=True)):
        now, earlier = (torch.full((2,), int(time)) for time in times)
        start = truncated(step.predicted(codes, condition, now, scale), torch.full((2,), rate))
        found.append(step.posterior(start, codes.flatten(1), earlier))
        codes = step(codes, condition, now, earlier, scale, torch.full((2,), rate), gumbel_of(number))
        assert torch.equal(codes.flatten(1), wanted[number])
    kept = torch.stack([found[0], found[len(found) // 2], found[-1]])
    assert (kept - expected[f"{name}_log_probability"]).abs().max() < TOLERANCE


def test_the_condition_is_that_of_the_original_code(expected):
    _, condition, _ = step_from(expected, False, 1.0)
    assert (condition - expected["condition"]).abs().max() < 1e-5


def test_truncation_keeps_the_likely_classes_up_to_the_rate():
    probabilities = torch.tensor([0.1, 0.5, 0.05, 0.35]).log()[None, :, None]
    kept = truncated(probabilities, torch.tensor([0.6]))[0, :, 0]
    assert kept.exp().round(decimals=3).tolist() == [0.0, 0.5, 0.0, pytest.approx(0.35)]


def test_the_averaged_weights_of_the_file_are_taken(files, expected):
    networks = loading.load_vq_diffusion(*files(), heads=2)
    condition = networks.module("text_encoder")(expected["ids"])
    assert (condition - expected["condition"]).abs().max() < 1e-5
    assert networks.image_size == (2 * GRID, 2 * GRID)
    assert networks.loops[0].start["codes_before"].fill == CODES
    picture = networks.module("decoder")(torch.full((1, GRID, GRID), CODES))
    assert picture.shape == (1, 3, *networks.image_size)


def test_the_declared_loop_leaves_no_mask(files, expected):
    networks = loading.load_vq_diffusion(*files(), heads=2)
    found = run_family(networks, {"input_ids": expected["ids"].numpy()}, (3, 4))
    assert found["codes"].max() < CODES
    assert found["image"].shape == (2, 3, *networks.image_size)


def test_a_codebook_of_another_size_needs_a_mapping(files, tmp_path):
    paths = files(rows=25)
    with pytest.raises(UsageError, match="gives 20 codes, the codebook has 25 rows"):
        loading.load_vq_diffusion(*paths, heads=2)
    mapping = tmp_path / "mapping.pt"
    torch.save(torch.tensor([3, 3, *range(CODES), 0, 1, 2]), mapping)
    decoder = loading.load_vq_diffusion(*paths, heads=2, mapping=mapping).module("decoder")
    assert decoder.rows.tolist() == [2, 3, 4, 0, *range(6, 22)]
    torch.save(torch.tensor([0] * 25), mapping)
    with pytest.raises(IntegrityError, match="does not map to 20 codes"):
        loading.load_vq_diffusion(*paths, heads=2, mapping=mapping)


def test_a_checkpoint_without_text_is_refused(tmp_path):
    path = tmp_path / "last.pth"
    torch.save({"model": {"transformer.transformer.blocks.0.attn.key.weight": torch.zeros(2, 2)}}, path)
    with pytest.raises(UsageError, match="no transformer that attends to text"):
        loading.load_vq_diffusion(path, path)


def test_a_stride_longer_than_the_process_is_refused():
    with pytest.raises(UsageError, match="stride of 11 over 10 timesteps"):
        DiffusionSchedule(timesteps=10, stride=11).tables()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_encoder", "step", "decoder"])
def test_each_stage_exports_for_any_batch(files, name):
    networks = loading.load_vq_diffusion(*files(), heads=2)
    stage = next(one for one in networks.stages if one.spec.name == name)
    assert compare_graph(stage, 1e-4, fixed_tokens=CONTEXT) > 0
