"""Text codes are fitted to token states, told apart, and their collapse is an error."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer

from textual_vision.runtime.errors import UsageError
from textual_vision.training.config import TextConfig
from textual_vision.training.evaluation.text_code_usage import text_code_usage
from textual_vision.training.models.caption_encoder import CaptionEncoder
from textual_vision.training.models.text_encoder import TextEncoder
from textual_vision.training.models.vocabulary import pruned_tokenizer, warm_start
from textual_vision.training.trainer.text_codes import (
    OUT_OF_REACH,
    fit_text_codes,
    merge_duplicate_centroids,
    token_states,
)

CAPTIONS = [
    f"{a} {b}" for a in ("red", "green", "blue", "large", "small") for b in ("dog", "cat", "tree", "car")
]
CONFIG = TextConfig(vocabulary=700, layers=1, groups=8, codebook_size=16, embed_dim=16)


@pytest.fixture(scope="module")
def fitted() -> tuple[TextEncoder, Tokenizer, float]:
    torch.manual_seed(0)
    tokenizer, old_ids = pruned_tokenizer(CAPTIONS, CONFIG)
    encoder = TextEncoder(CONFIG).eval()
    warm_start(encoder.encoder, CONFIG, old_ids)
    error = fit_text_codes(encoder, token_states(encoder, tokenizer, CAPTIONS), iterations=8, seed=0)
    return encoder, tokenizer, error


def test_states_of_every_word_are_collected_and_none_of_the_padding(
    fitted: tuple[TextEncoder, Tokenizer, float],
) -> None:
    encoder, tokenizer, _ = fitted
    assert len(token_states(encoder, tokenizer, ["red dog", "a large red dog"])) == 4 + 6


def test_the_error_left_is_the_distance_to_the_nearest_center(
    fitted: tuple[TextEncoder, Tokenizer, float],
) -> None:
    encoder, tokenizer, error = fitted
    states = token_states(encoder, tokenizer, CAPTIONS)
    expected = 0.0
    for group, part in enumerate(states.unflatten(1, (8, -1)).transpose(0, 1)):  # type: ignore[no-untyped-call]
        expected += float(torch.cdist(part, encoder.quantizer.centroids[group]).amin(1).square().mean()) / 8
    assert error == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(encoder.words.rows.detach(), encoder.quantizer.centroids)


def test_more_codes_leave_a_smaller_error(fitted: tuple[TextEncoder, Tokenizer, float]) -> None:
    from dataclasses import replace

    encoder, tokenizer, error = fitted
    coarse = TextEncoder(replace(CONFIG, codebook_size=2)).eval()
    coarse.encoder.load_state_dict(encoder.encoder.state_dict())
    states = token_states(coarse, tokenizer, CAPTIONS)
    assert error < fit_text_codes(coarse, states, iterations=8, seed=0)


def test_captions_that_say_different_things_have_different_codes(
    fitted: tuple[TextEncoder, Tokenizer, float],
) -> None:
    usage = text_code_usage(CaptionEncoder(fitted[1], fitted[0]), CAPTIONS)
    assert usage.captions == 20
    assert usage.distinct > 0.9
    assert usage.recall_at_1 > 0.9
    assert usage.used > 0.8


def test_codes_that_tell_nothing_apart_stop_training(
    fitted: tuple[TextEncoder, Tokenizer, float],
) -> None:
    encoder, tokenizer, _ = fitted
    collapsed = TextEncoder(CONFIG).eval()
    collapsed.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        collapsed.quantizer.centroids[:, 1:] = 1e3
    with pytest.raises(UsageError, match="collapsed"):
        text_code_usage(CaptionEncoder(tokenizer, collapsed), CAPTIONS)


def test_too_few_words_for_the_codes_are_told(fitted: tuple[TextEncoder, Tokenizer, float]) -> None:
    with pytest.raises(UsageError, match="3 words in all captions can't fill 16 text codes"):
        fit_text_codes(fitted[0], torch.randn(3, 384), iterations=1, seed=0)


def test_of_centers_that_rounding_would_choose_between_one_is_in_reach() -> None:
    centers = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1e-3], [1.0, 1e-3], [0.0, 1.0]])
    kept = (merge_duplicate_centroids(centers, 0.01) != OUT_OF_REACH).all(1)
    assert kept.tolist() == [True, True, False, False, True]


def test_a_state_seen_very_often_takes_one_code(fitted: tuple[TextEncoder, Tokenizer, float]) -> None:
    often = torch.randn(1, CONFIG.hidden).expand(500, -1) + 1e-4 * torch.randn(500, CONFIG.hidden)
    states = torch.cat([often, torch.randn(40, CONFIG.hidden)])
    encoder = TextEncoder(CONFIG).eval()
    fit_text_codes(encoder, states, iterations=8, seed=0)
    assert len(encoder.quantizer(often[None])[0].unique(dim=0)) == 1
