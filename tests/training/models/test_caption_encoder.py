"""Captions become text codes that do not depend on the captions around them."""

from __future__ import annotations

import pytest
import torch

from textual_vision.training.config import TextConfig
from textual_vision.training.models.caption_encoder import CaptionEncoder
from textual_vision.training.models.text_encoder import TextEncoder
from textual_vision.training.models.vocabulary import pruned_tokenizer

CONFIG = TextConfig(vocabulary=600, layers=1, groups=8, codebook_size=12, embed_dim=16, max_tokens=12)


@pytest.fixture
def encode() -> CaptionEncoder:
    torch.manual_seed(0)
    tokenizer, _ = pruned_tokenizer(["red disc", "a square that is blue, bold style"], CONFIG)
    return CaptionEncoder(tokenizer, TextEncoder(CONFIG).eval())


def test_codes_are_padded_to_the_longest_caption_and_cached(encode: CaptionEncoder) -> None:
    codes, mask = encode(["red disc", "a disc that is red"])
    assert codes.shape == (2, 7, 8)
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0, 0], [1] * 7]
    again, _ = encode(["red disc"])
    assert torch.equal(again[0], codes[0, :4])


def test_the_codes_of_a_caption_do_not_depend_on_the_others(encode: CaptionEncoder) -> None:
    captions = [f"{'red ' * (1 + number % 5)}disc {number}" for number in range(40)]
    encode(captions)
    alone = CaptionEncoder(encode.tokenizer, encode.text_encoder)
    for caption in captions:
        codes, _ = alone([caption])
        assert torch.equal(codes[0], encode.codes_from_caption[caption].long())
