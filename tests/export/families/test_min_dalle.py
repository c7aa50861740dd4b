"""min-dalle gives what the published code gives for the same random weights and the same noise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from family_graphs import compare_graph, run_family
from random_weights import random_state

from textual_vision.export.families.min_dalle import loading
from textual_vision.export.families.min_dalle.decoder import BartDecoder
from textual_vision.export.families.min_dalle.encoder import BartEncoder, PromptEncoder
from textual_vision.export.families.min_dalle.layers import BartConfig
from textual_vision.export.families.min_dalle.sampler import SamplerStep
from textual_vision.export.families.min_dalle.tokenizer import min_dalle_tokenizer
from textual_vision.export.families.vq_gan import DecoderConfig, VqGanDecoder
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.noise import stream_of, values_from_words, words_from_seed
from textual_vision.runtime.text.tokenizer import Tokenizer

DATA = Path(__file__).parents[2] / "data" / "families" / "min-dalle"
TOLERANCE = 1e-5
TOKENS, WIDTH, CODES, POSITIONS, ROWS = 16, 64, 41, 256, 120
TEMPERATURE, TOP_K, GUIDANCE, SEEDS = 0.7, 9, 4.0, (20, 21)
SIZES = {"width": WIDTH, "hidden": 48, "layers": 2, "heads": 2}
ENCODER = BartConfig(vocabulary=ROWS, positions=TOKENS, **SIZES)
DECODER = BartConfig(vocabulary=CODES, positions=POSITIONS, **SIZES)
WORDS = ("<s>", "<pad>", "</s>", "<unk>", "Ġ", *"abcdeghiort", "Ġa", "Ġc", "Ġca", "Ġcat", "re", "red", "Ġred")
MERGES = ("Ġ a", "Ġ c", "Ġc a", "Ġca t", "r e", "re d", "Ġ red")


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def expected():
    with np.load(DATA / "expected.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="module")
def prompts():
    encoder, decoder = BartEncoder(ENCODER), BartDecoder(DECODER, CODES)
    encoder.load_state_dict(random_state(encoder, "encoder."))
    decoder.load_state_dict(random_state(decoder, "decoder."))
    return PromptEncoder(encoder, decoder).eval()


@pytest.fixture(scope="module")
def step(prompts):
    empty = torch.tensor([[0, 2] + [1] * (TOKENS - 2)])
    return SamplerStep(prompts.decoder, prompts, empty_ids=empty, codes=CODES, top_k=TOP_K).eval()


@pytest.fixture
def files(prompts, tmp_path):
    """The five files of a small model; two normalizations have no scale, as in the published ones."""
    encoder, decoder = prompts.encoder.state_dict(), prompts.decoder.state_dict()
    encoder["final_ln.weight"] = torch.ones(WIDTH)
    del decoder["layers.0.glu.ln0.weight"], encoder["final_ln.weight"]
    torch.save(encoder, tmp_path / "encoder.pt")
    torch.save({key: one.half() for key, one in decoder.items()}, tmp_path / "decoder.pt")
    config = DecoderConfig(latent=8, widths=(32, 32), blocks=1, attention=(False, True), colors=3)
    picture = random_state(VqGanDecoder(config, codebook_size=CODES, embed_dim=8))
    renamed = {key.removeprefix("quantize."): one for key, one in picture.items()}
    torch.save(renamed, tmp_path / "detoker.pt")
    words = {word: index for index, word in enumerate(WORDS)}
    (tmp_path / "vocab.json").write_text(json.dumps(words), "utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(("#version: 0.2", *MERGES, "")), "utf-8")
    return [
        tmp_path / name for name in ("encoder.pt", "decoder.pt", "detoker.pt", "vocab.json", "merges.txt")
    ]


def gumbel_of(number):
    words = [words_from_seed(seed, 1, CODES, stream_of(0, number)) for seed in SEEDS]
    return torch.from_numpy(values_from_words(np.concatenate(words), "gumbel"))


def test_the_encoder_gives_the_features_of_the_original_code(prompts, expected):
    for index in range(2):
        found = prompts.encoder(expected[f"ids_{index}"][None])
        assert (found[0] - expected[f"features_{index}"]).abs().max() < TOLERANCE


def test_all_codes_are_those_of_the_original_code(prompts, step, expected):
    ids = torch.stack([expected["ids_0"], expected["ids_1"]])
    cache, mask = prompts(ids)
    code, codes = torch.full((2,), CODES - 1), torch.zeros(2, 16, 16, dtype=torch.int64)
    carried = torch.zeros(2, 2, 2, 2, POSITIONS, WIDTH)
    temperature, scale = torch.full((2,), TEMPERATURE), torch.full((2,), GUIDANCE)
    for number in range(POSITIONS):
        place = torch.full((2,), number)
        if number == 3:
            logits, _ = step.decoder(code, place, carried[:, 1], cache, mask)
            for index in range(2):
                assert (logits[index] - expected[f"logits_at_3_{index}"][1]).abs().max() < TOLERANCE
        noise = gumbel_of(number)
        code, carried, codes = step(code, carried, codes, place, cache, mask, temperature, scale, noise)
    for index in range(2):
        assert torch.equal(codes[index].flatten(), expected[f"codes_{index}"])


def test_the_tokenizer_gives_the_subwords_of_the_original_algorithm(files):
    data, spec = min_dalle_tokenizer(*files[3:], rows=ROWS, tokens=TOKENS)
    (found,) = Tokenizer(data, spec).encode_batches(["A  Red cat", "réd z"], 2)
    texts = [
        [WORDS[number] for number in row[: mask.sum()]]
        for row, mask in zip(found.ids, found.mask, strict=True)
    ]
    assert texts[0] == ["<s>", "Ġa", "Ġred", "Ġcat", "</s>"]
    assert texts[1] == ["<s>", "Ġ", "r", "d", "Ġ", "<unk>", "</s>"]
    assert found.ids.shape == (2, TOKENS)
    assert set(found.ids[0][5:]) == {1}


def test_the_files_load_with_normalizations_that_have_no_scale(files):
    networks = loading.load_min_dalle(*files, heads=2, top_k=TOP_K)
    encoder = networks.module("text_encoder").encoder
    assert torch.equal(encoder.final_ln.weight, torch.ones(WIDTH))
    assert networks.image_size == (32, 32)
    assert networks.loops[0].steps == POSITIONS
    picture = networks.module("decoder")(torch.zeros(1, 16, 16, dtype=torch.int64))
    assert picture.shape == (1, 3, 32, 32)
    assert networks.assumed == {}


def test_the_declared_loop_fills_the_grid_of_codes(files, expected):
    networks = loading.load_min_dalle(*files, heads=2, top_k=TOP_K)
    found = run_family(networks, {"input_ids": expected["ids_0"].numpy()[None]}, (3,))
    assert found["image"].shape == (1, 3, 32, 32)
    assert found["codes"][0, -1, -1] == found["code"][0]
    assert len(np.unique(found["codes"])) > 3


def test_the_number_of_heads_is_said_where_it_is_taken(files):
    assert loading.load_min_dalle(*files).assumed == {"heads": 1}


def test_files_of_two_models_are_refused(files, tmp_path):
    other = BartDecoder(
        BartConfig(vocabulary=CODES, positions=256, width=32, hidden=8, layers=1, heads=1), 41
    )
    torch.save(other.state_dict(), tmp_path / "other.pt")
    with pytest.raises(UsageError, match=r"encoder.pt has width 64, other.pt 32"):
        loading.load_min_dalle(files[0], tmp_path / "other.pt", *files[2:])


def test_merges_of_unknown_tokens_are_refused(files, tmp_path):
    files[4].write_text("#version\nx y\n", "utf-8")
    with pytest.raises(IntegrityError, match="'x y' merges tokens"):
        loading.load_min_dalle(*files)


def test_a_vocabulary_beyond_the_embedding_is_refused(files):
    with pytest.raises(IntegrityError, match="ids reach 22, the encoder's embedding has 10 rows"):
        min_dalle_tokenizer(*files[3:], rows=10, tokens=TOKENS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_encoder", "step", "decoder"])
def test_each_stage_exports_for_any_batch(files, name):
    networks = loading.load_min_dalle(*files, heads=2, top_k=TOP_K)
    stage = next(one for one in networks.stages if one.spec.name == name)
    assert compare_graph(stage, 1e-4, fixed_tokens=TOKENS) > 0
