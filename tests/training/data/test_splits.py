"""Splits are made by a hash, and nothing held out can come back by another way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.training.data import splits
from textual_vision.training.data.records import Record, with_splits
from textual_vision.training.emoji.concepts import with_article
from textual_vision.training.emoji.wearing import ACCESSORIES, ANIMALS

WORDS = st.sampled_from(
    ["dog", "Dog", "puppy", "poodle", "cat", "wearing", "a", "sunglasses", "shades", "hot", "in", "crown"]
)
CAPTIONS = st.lists(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), min_size=1, max_size=3)


def record(concept: str, style: str = "noto", captions: tuple[str, ...] = ("thing",)) -> Record:
    return Record(
        key=f"{concept}/{style}",
        concept=concept,
        kind="emoji",
        label=captions[0],
        captions=captions,
        style=style,
        group="",
        subgroup="",
        license="",
    )


def test_the_hash_of_a_concept_is_the_same_for_ever() -> None:
    assert splits.hashed_share("1F436") == 0.5288357585748953
    assert splits.hashed_share("") == int("e3b0c44298fc1c14", 16) / 2**64


@pytest.mark.parametrize(
    ("concept", "split"),
    [
        ("1F436", "train"),
        ("1F339", "test"),
        ("1F98A", "train"),
        ("1F99A", "test"),
        ("1F3EB", "test"),
        ("wearing:sunglasses:1F43C", "test"),
        ("wearing:crown:1F434", "test"),
        ("scene:forest|river||blue", "train"),
        ("scene:forest|lake||night", "validation"),
    ],
)
def test_known_concepts_stay_in_their_split(concept: str, split: str) -> None:
    assert splits.concept_split(concept) == split


def test_pinned_concepts_are_trained_on_in_every_style() -> None:
    for concept in splits.PINNED_CONCEPTS:
        assert splits.concept_split(concept) == splits.TRAIN
        assert not splits.is_heldout_pair(concept, "noto")


def test_every_part_of_a_composition_is_pinned() -> None:
    assert set(ANIMALS) | {accessory.hexcode for accessory in ACCESSORIES} <= splits.PINNED_CONCEPTS


def test_shares_are_about_what_they_say() -> None:
    found = [splits.concept_split(f"{number:X}") for number in range(20_000, 40_000)]
    assert found.count(splits.TEST) / len(found) == pytest.approx(splits.TEST_SHARE, abs=0.005)
    assert found.count(splits.VALIDATION) / len(found) == pytest.approx(splits.VALIDATION_SHARE, abs=0.005)
    pairs = [splits.is_heldout_pair(f"{number:X}", "noto") for number in range(20_000, 40_000)]
    assert sum(pairs) / len(pairs) == pytest.approx(splits.PAIR_SHARE, abs=0.005)


@given(st.text(max_size=12), CAPTIONS)
def test_no_dog_in_sunglasses_is_ever_trained_on(concept: str, captions: list[str]) -> None:
    (found,) = with_splits([record(concept, captions=tuple(captions))])
    words = [set(caption.lower().split()) for caption in captions]
    if any(found & {"dog", "puppy", "poodle"} and found & {"sunglasses", "shades"} for found in words):
        assert found.split == splits.HELDOUT_COMPOSITION
    else:
        assert found.split != splits.HELDOUT_COMPOSITION


@pytest.mark.parametrize("dog", ["dog", "dog face", "poodle", "puppy", "Dog", "guide dog"])
def test_every_phrasing_of_a_dog_in_sunglasses_is_recognized(dog: str) -> None:
    sunglasses = next(accessory for accessory in ACCESSORIES if accessory.name == "sunglasses")
    for caption in sunglasses.captions:
        assert splits.is_heldout_composition([caption.format(animal=dog, an_animal=with_article(dog))])


@given(st.lists(st.tuples(st.text(max_size=4), st.sampled_from(["noto", "twemoji", "fluent"])), max_size=30))
def test_a_concept_of_training_is_never_held_out_in_all_its_styles(pairs: list[tuple[str, str]]) -> None:
    records = with_splits(record(concept, style) for concept, style in pairs)
    trained = {found.concept for found in records if found.split == splits.TRAIN}
    for found in records:
        if splits.concept_split(found.concept) == splits.TRAIN:
            assert found.concept in trained
            assert found.split != splits.TEST
        else:
            assert found.split == splits.concept_split(found.concept)
