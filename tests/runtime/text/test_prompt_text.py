"""Emoji and full-width letters become words that a vocabulary has."""

import json

import pytest

from textual_vision.runtime.manifest import TextSpec
from textual_vision.runtime.text.prompt_text import emoji_names, plain_prompt
from textual_vision.runtime.text.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("dog with a crown", "dog with a crown"),
        ("🐶", "dog face"),
        ("ｄｏｇ", "dog"),
        ("a🐶and🐱", "a dog face and cat face"),
        ("🐶🐱", "dog face cat face"),
        ("🐶 🐱", "dog face cat face"),
        ("👍🏽", "thumbs up"),
        ("❤️", "red heart"),
        ("👩🏿‍🚀", "woman astronaut"),
        ("🇩🇪", "flag: Germany"),
        ("ﬁre", "fire"),
        ("森林", "森林"),
    ],
)
def test_a_prompt_becomes_plain_text(prompt, expected):
    assert plain_prompt(prompt, lambda text: False) == expected


def test_an_emoji_that_the_vocabulary_has_stays():
    assert plain_prompt("🐶 🐱", "🐶".__eq__) == "🐶 cat face"


def test_names_are_of_one_line_and_ascii_or_latin_letters():
    assert len(emoji_names()) > 1800
    assert all(name.isprintable() and name.strip() == name for name in emoji_names().values())


def test_the_tokenizer_reads_an_emoji_as_its_name(tiny_files):
    spec = TextSpec(tokenizer="tokenizer.json", max_tokens=12, pad_id=0, unknown_id=1)
    value = json.loads(tiny_files["tokenizer.json"])
    value["model"]["vocab"]["face"] = len(value["model"]["vocab"])
    tokenizer = Tokenizer(json.dumps(value).encode(), spec)
    for emoji, words in (("🐶", "dog face"), ("ＤＯＧ", "dog")):
        assert tokenizer.encode([emoji]).ids.tolist() == tokenizer.encode([words]).ids.tolist()
