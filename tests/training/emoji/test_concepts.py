"""One thing has one concept, whatever it is called and whoever is drawn."""

from __future__ import annotations

import pytest

from textual_vision.training.emoji.concepts import concept_from_hexcode, slug, with_article


@pytest.mark.parametrize(
    ("hexcode", "label", "concept"),
    [
        ("2764-FE0F", "red heart", "2764"),
        ("1F44B-1F3FD", "waving hand", "1F44B"),
        ("1F469-1F3FF-200D-1F52C", "woman scientist", "1F9D1-200D-1F52C"),
        ("1F468-200D-1F52C", "man scientist", "1F9D1-200D-1F52C"),
        ("1F3C3-200D-2640-FE0F-200D-27A1-FE0F", "woman running facing right", "1F3C3"),
        ("1F43B-200D-2744-FE0F", "polar bear", "1F43B-200D-2744"),
        ("1F468-200D-1F469-200D-1F466", "family: man, woman, boy", "1F46A"),
    ],
)
def test_tones_genders_and_directions_share_a_concept(hexcode: str, label: str, concept: str) -> None:
    assert concept_from_hexcode(hexcode, label) == concept


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("dog face", "a dog face"),
        ("owl", "an owl"),
        ("sunglasses", "sunglasses"),
        ("wine glass", "a wine glass"),
        ("1st place medal", "1st place medal"),
    ],
)
def test_articles_suit_their_words(words: str, expected: str) -> None:
    assert with_article(words) == expected


def test_names_of_icons_meet_labels_whatever_their_punctuation() -> None:
    assert slug("woman’s hat") == slug("womans-hat") == slug("Woman's Hat")
