"""CLIP's text tower and tokenizer give what the transformers library gives for the same files."""

import json

import numpy as np
import pytest
import torch
from family_graphs import compare_graph
from random_weights import random_state
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizerFast

from textual_vision.export.families.clip.text import clip_text_from_file, clip_text_from_state, text_state
from textual_vision.export.families.clip.tokenizer import END, START, clip_tokenizer
from textual_vision.export.families.parts import stage, tensor
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.text.tokenizer import Tokenizer

TOLERANCE = 1e-5
MERGES = ("t h", "th e</w>", "d o", "do g</w>", "i n", "in g</w>", "r e", "re d</w>", "Ã ©</w>")
ROWS = 2 * 256 + len(MERGES) + 2
CONTEXT, WIDTH, PROJECTION = 12, 128, 24
PROMPTS = ("The red  dog's running", "a DOG (3 of 12) — café!", "the " * 30)


@pytest.fixture(scope="module")
def library():
    config = CLIPTextConfig(
        vocab_size=ROWS,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=PROJECTION,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        hidden_act="quick_gelu",
        eos_token_id=ROWS - 1,
    )
    model = CLIPTextModelWithProjection(config)
    model.load_state_dict(random_state(model))
    return model.eval()


@pytest.fixture
def merges(tmp_path):
    path = tmp_path / "merges.txt"
    path.write_text("\n".join(("#version: 0.2", *MERGES, "")), "utf-8")
    return path


@pytest.fixture
def tower(library, tmp_path):
    library.save_pretrained(tmp_path / "clip")
    return clip_text_from_file(tmp_path / "clip")


def test_the_text_tower_gives_the_features_of_the_library(library, tower):
    ids = torch.tensor([[ROWS - 2, 5, 6, 7, ROWS - 1] + [0] * 7, [ROWS - 2, 9, ROWS - 1] + [0] * 9])
    with torch.no_grad():
        wanted = library(input_ids=ids)
        tokens, sentence = tower(ids)
    assert (tokens - wanted.last_hidden_state).abs().max() < TOLERANCE
    assert (sentence - wanted.text_embeds).abs().max() < TOLERANCE


def test_the_text_tower_reads_its_sizes_off_a_whole_clip(tower):
    state = {**tower.state_dict(), "visual.proj": torch.zeros(3, 3), "logit_scale": torch.zeros(())}
    again = clip_text_from_state(text_state(state))
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in tower.state_dict().items()
    }


def test_the_tokenizer_gives_the_ids_of_the_library(merges):
    data, spec = clip_tokenizer(merges, rows=ROWS, context=CONTEXT)
    (found,) = Tokenizer(data, spec).encode_batches(PROMPTS, len(PROMPTS))
    vocabulary = json.loads(data)["model"]["vocab"]
    library = CLIPTokenizerFast(
        vocab=vocabulary,
        merges=[tuple(pair.split()) for pair in MERGES],
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token="!",
    )
    wanted = library(list(PROMPTS), truncation=True, max_length=CONTEXT)["input_ids"]
    for ids, mask, expected in zip(found.ids, found.mask, wanted, strict=True):
        assert ids[mask == 1].tolist() == expected
    assert found.ids.shape == (len(PROMPTS), CONTEXT)
    assert np.all(found.ids[found.mask == 0] == 0)
    assert found.ids[2][-1] == ROWS - 1


def test_too_few_merges_for_the_embedding_are_refused(merges):
    with pytest.raises(IntegrityError, match="has 9 merges, the text tower's embedding needs 10"):
        clip_tokenizer(merges, rows=ROWS + 1, context=CONTEXT)


def test_a_damaged_archive_of_merges_is_refused(tmp_path):
    path = tmp_path / "merges.txt.gz"
    path.write_bytes(b"no archive")
    with pytest.raises(IntegrityError, match="no list of merges"):
        clip_tokenizer(path, rows=ROWS, context=CONTEXT)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_in_the_place_of_weights_is_refused(tmp_path):
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(UsageError, match="TorchScript"):
        clip_text_from_file(path)


@pytest.mark.slow
def test_the_text_tower_exports(tower):
    outputs = (tensor("text", "float32", CONTEXT, WIDTH), tensor("sentence", "float32", PROJECTION))
    spec = stage("text_encoder", tower, (tensor("input_ids", "int64", "tokens"),), outputs)
    assert compare_graph(spec, 1e-4, fixed_tokens=CONTEXT) > 0
