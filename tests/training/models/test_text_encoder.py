"""The word encoder is MiniLM's first layers, and its quantizer takes the nearest code of each sub-space."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer

from textual_vision.training.config import TextConfig
from textual_vision.training.int8_grid import round_to_int8_grid
from textual_vision.training.models.caption_encoder import ids_from_captions
from textual_vision.training.models.text_encoder import (
    ProductQuantizer,
    TextEncoder,
    WordEncoder,
    sentence_from_text,
)
from textual_vision.training.models.vocabulary import minilm_folder, pruned_tokenizer, warm_start

CAPTIONS = ["dog wearing sunglasses", "a green forest with a river, blue sky", "café"]
HALF_ROUNDING = 2e-2  # of states of size 1, three layers after weights rounded to half precision


@pytest.fixture(scope="module")
def pruned() -> tuple[TextConfig, Tokenizer, list[int]]:
    config = TextConfig(vocabulary=900, codebook_size=8)
    tokenizer, old_ids = pruned_tokenizer(CAPTIONS, config)
    return config, tokenizer, old_ids


def test_the_word_encoder_gives_the_hidden_states_of_minilms_third_layer(
    pruned: tuple[TextConfig, Tokenizer, list[int]],
) -> None:
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config, tokenizer, old_ids = pruned
    encoder = WordEncoder(config).eval()
    warm_start(encoder, config, old_ids)
    ids, mask = ids_from_captions(tokenizer, CAPTIONS)
    reference = AutoModel.from_pretrained(str(minilm_folder())).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.ndim == 2 and parameter.shape[0] not in (2, 512):  # positions are rounded as a sum
                parameter.copy_(round_to_int8_grid(parameter))
        position = reference.embeddings.position_embeddings.weight
        kind = reference.embeddings.token_type_embeddings.weight
        position.copy_(round_to_int8_grid(position + kind[0]))
        kind.zero_()
        states = encoder(ids, mask)
        expected = reference(
            input_ids=torch.tensor(old_ids)[ids], attention_mask=mask, output_hidden_states=True
        ).hidden_states[3]
    torch.testing.assert_close(states[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)


def test_the_warm_start_is_frozen_and_on_the_grid_of_int8(
    pruned: tuple[TextConfig, Tokenizer, list[int]],
) -> None:
    config, _, old_ids = pruned
    encoder = WordEncoder(config)
    warm_start(encoder, config, old_ids)
    for parameter in encoder.parameters():
        assert not parameter.requires_grad
        assert parameter.ndim == 1 or torch.equal(parameter, round_to_int8_grid(parameter))


def test_the_pruned_tokenizer_reads_captions_as_the_full_one_does(
    pruned: tuple[TextConfig, Tokenizer, list[int]],
) -> None:
    config, tokenizer, old_ids = pruned
    full = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    full.no_padding()
    for caption in CAPTIONS:
        assert tokenizer.encode(caption).tokens == full.encode(caption).tokens
        assert [old_ids[i] for i in tokenizer.encode(caption).ids] == full.encode(caption).ids
    assert tokenizer.get_vocab_size() == config.vocabulary


def test_a_word_that_was_dropped_falls_back_to_its_pieces(
    pruned: tuple[TextConfig, Tokenizer, list[int]],
) -> None:
    _, tokenizer, _ = pruned
    tokens = tokenizer.encode("xylophone").tokens
    assert "[UNK]" not in tokens
    assert "".join(token.removeprefix("##") for token in tokens[1:-1]) == "xylophone"


def test_a_long_prompt_is_cut_to_the_tokens_that_the_model_has_places_for(
    pruned: tuple[TextConfig, Tokenizer, list[int]],
) -> None:
    config, tokenizer, _ = pruned
    assert len(tokenizer.encode("dog " * 100).ids) == config.max_tokens


def test_each_sub_space_takes_its_nearest_code() -> None:
    config = TextConfig(hidden=12, groups=3, codebook_size=5)
    torch.manual_seed(0)
    quantizer = ProductQuantizer(config)
    states = torch.randn(2, 4, 12)
    codes = quantizer(states)
    for group in range(3):
        part = states[:, :, 4 * group : 4 * group + 4]
        distance = torch.cdist(part.flatten(0, 1), quantizer.centroids[group])
        assert torch.equal(codes[:, :, group].flatten(), distance.argmin(1))


def test_attention_sums_to_one_over_words_and_padding_changes_nothing() -> None:
    config = TextConfig(
        vocabulary=20, hidden=24, heads=2, intermediate=8, layers=1, groups=2, codebook_size=6, embed_dim=8
    )
    torch.manual_seed(0)
    encoder = TextEncoder(config).eval().requires_grad_(False)
    ids = torch.randint(0, 20, (1, 5))
    codes, text, attention = encoder(ids, torch.ones(1, 5, dtype=torch.long))
    padded = torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    codes_padded, text_padded, attention_padded = encoder(padded, mask)
    assert attention.sum() == pytest.approx(1.0)
    assert attention_padded[:, 5:].abs().max() == 0
    assert torch.equal(codes, codes_padded[:, :5])
    torch.testing.assert_close(text, text_padded[:, :5])
    torch.testing.assert_close(sentence_from_text(text, mask[:, :5]), sentence_from_text(text_padded, mask))


def test_what_follows_sees_nothing_of_the_prompt_but_its_codes() -> None:
    """Two states with the same codes give the same text: there is no continuous side door."""
    config = TextConfig(
        vocabulary=20, hidden=24, heads=2, intermediate=8, layers=1, groups=2, codebook_size=6, embed_dim=8
    )
    torch.manual_seed(0)
    encoder = TextEncoder(config).eval().requires_grad_(False)
    mask = torch.ones(1, 4, dtype=torch.long)
    codes, text, _ = encoder(torch.randint(0, 20, (1, 4)), mask)
    again, _ = encoder.words(codes, mask)
    assert torch.equal(text, again)
