"""Batches are a function of (seed, step), each picture as often in an epoch as its weight says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from textual_vision.training.config import TrainConfig
from textual_vision.training.data.batches import (
    Batches,
    PictureSource,
    StepRandom,
    caption_with_style,
    signed_from_pixels,
)
from textual_vision.training.models.caption_encoder import CaptionEncoder
from textual_vision.training.models.text_encoder import TextEncoder
from textual_vision.training.models.vocabulary import pruned_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    from textual_vision.training.config import TextConfig

    return pruned_tokenizer(
        ["red disc", "a square that is blue, bold style"], TextConfig(vocabulary=600, max_tokens=12)
    )[0]


@pytest.fixture
def batches(tiny_config: TrainConfig, shapes: PictureSource, tokenizer: Tokenizer) -> Batches:
    torch.manual_seed(0)
    encoder = TextEncoder(tiny_config.model.text).eval()
    return Batches(shapes, CaptionEncoder(tokenizer, encoder), seed=3, style_in_caption=0.5)


def test_an_epoch_shows_every_picture_as_often_as_its_weight_and_no_more(
    batches: Batches, shapes: PictureSource
) -> None:
    size = 6
    steps = sum(shapes.weight(i) for i in range(len(shapes))) // size
    for epoch in range(2):
        seen = Counter(i for s in range(steps) for i in batches.batch("x", epoch * steps + s, size).indices)
        assert seen == {i: shapes.weight(i) for i in range(len(shapes))}


def test_epochs_and_phases_have_orders_of_their_own(batches: Batches) -> None:
    first, other, second = (
        batches.batch(phase, step, 12).indices for phase, step in (("a", 0), ("b", 0), ("a", 3))
    )
    assert first != other
    assert first != second


def test_the_shares_of_all_processes_are_the_batch_of_one(batches: Batches) -> None:
    whole = batches.batch("x", 5, 8)
    shares = [batches.batch("x", 5, 4, rank, 2) for rank in (0, 1)]
    assert whole.indices == shares[0].indices + shares[1].indices
    assert whole.captions == shares[0].captions + shares[1].captions
    assert torch.equal(whole.pictures, torch.cat([share.pictures for share in shares]))


def test_a_step_is_the_same_whenever_it_is_asked_for(batches: Batches) -> None:
    before = batches.batch("x", 7, 8)
    batches.batch("x", 900, 8)
    after = batches.batch("x", 7, 8)
    assert (before.indices, before.captions) == (after.indices, after.captions)
    assert torch.equal(before.text_codes, after.text_codes)


def test_the_random_numbers_of_shares_are_those_of_the_whole() -> None:
    whole = StepRandom(1, "x", 2).normal(6, 3)
    shares = [StepRandom(1, "x", 2, rank, 3).normal(2, 3) for rank in range(3)]
    assert torch.equal(whole, torch.cat(shares))
    assert not torch.equal(whole, StepRandom(1, "x", 3).normal(6, 3))
    assert not torch.equal(whole, StepRandom(2, "x", 2).normal(6, 3))


def test_a_caption_names_the_style_in_the_share_of_cases_that_was_asked_for(batches: Batches) -> None:
    told = torch.cat([batches.batch("x", step, 32).style_named for step in range(12)])
    assert 0.4 < told.float().mean() < 0.6
    one = batches.batch("x", 0, 32)
    for caption, named in zip(one.captions, one.style_named.tolist(), strict=True):
        assert named == caption.endswith(" style")


def test_pixels_become_numbers_from_minus_one_to_one() -> None:
    signed = signed_from_pixels(np.array([[[[0, 255, 51]]]], np.uint8))
    torch.testing.assert_close(signed.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_a_style_is_named_after_a_comma() -> None:
    assert caption_with_style("dog face", "noto") == "dog face, noto style"
    assert caption_with_style("dog face", "") == "dog face"
