"""A config says what is wrong with it, by name, and comes back from JSON as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from textual_vision.runtime.errors import UsageError
from textual_vision.training.checkpoint import SHIPPED_FOLDER, read_config
from textual_vision.training.config import RetrievalConfig, TrainConfig, with_retrieval_entries
from textual_vision.training.config_file import (
    CONFIG_FOLDER,
    bytes_from_config,
    config_from_json,
    load_config,
)

SHIPPED = sorted(path.stem for path in CONFIG_FOLDER.glob("*.json"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_is_valid_named_like_its_file_and_survives_json(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    assert config_from_json(json.loads(bytes_from_config(config))) == config


def test_the_scales_and_the_recipe_of_the_paper_are_shipped() -> None:
    assert set(SHIPPED) == {"emoji-64", "emoji-128", "coco-256", "paper-64"}


def test_the_defaults_are_the_recipe_of_the_shipped_checkpoint() -> None:
    shipped = read_config(SHIPPED_FOLDER / "emoji" / "config.json")
    entries = shipped.model.retrieval.entries
    assert entries is not None
    assert with_retrieval_entries(TrainConfig(name="emoji-64"), entries) == shipped


def test_retrieval_entries_are_the_pictures_of_the_corpus_unless_the_config_says_their_number() -> None:
    config = TrainConfig(name="x")
    assert config.model.retrieval.entries is None
    assert with_retrieval_entries(config, 70).model.retrieval == RetrievalConfig(entries=70)
    given = config_from_json({"name": "x", "model": {"retrieval": {"entries": 9}}})
    assert with_retrieval_entries(given, 70) == given


def test_an_unknown_field_is_named_with_its_place_and_the_nearest_valid_name() -> None:
    with pytest.raises(UsageError, match=r"config\.model\.latent: unknown field 'block'") as caught:
        config_from_json({"name": "x", "model": {"latent": {"block": 3}}})
    assert caught.value.hint == "did you mean 'blocks'?"


def test_an_unknown_field_that_is_like_none_gets_a_list() -> None:
    with pytest.raises(UsageError, match="'zzz'") as caught:
        config_from_json({"name": "x", "model": {"zzz": 1}})
    assert "image_size" in caught.value.hint


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"name": 3}, r"config\.name"),
        ({"name": "x", "seed": True}, r"config\.seed"),
        ({"name": "x", "ema_decay": "0.9"}, r"config\.ema_decay"),
        ({"name": "x", "model": {"codebook": {"channels": [48, "96"]}}}, r"model\.codebook\.channels\[1\]"),
        ({"name": "x", "model": []}, r"config\.model"),
        ({"name": "x", "model": {"retrieval": {"entries": 1.5}}}, r"model\.retrieval\.entries"),
        ([], "config: expected an object"),
    ],
)
def test_a_value_of_another_type_is_named(values: object, place: str) -> None:
    with pytest.raises(UsageError, match=place):
        config_from_json(values)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(UsageError, match="field 'name' is missing"):
        config_from_json({})


def test_a_config_of_another_schema_is_refused() -> None:
    with pytest.raises(UsageError, match="schema_version is 1, this version reads 2"):
        config_from_json({"name": "x", "schema_version": 1})


CONTRADICTIONS: Mapping[str, dict[str, Any]] = {
    r"latent\.grid 16 x 4 .* is not model\.image_size 128": {"model": {"image_size": 128}},
    r"codebook\.channels has 1 halvings": {"model": {"codebook": {"channels": [48]}}},
    r"text\.hidden 384 is not a multiple of model\.text\.groups 7": {"model": {"text": {"groups": 7}}},
    r"latent\.steps is 12: a grid of 8 patches can't be halved": {"model": {"latent": {"steps": 12}}},
    r"latent\.grid 16 is not made of patches of 3 x 3": {"model": {"latent": {"patch": 3}}},
    r"retrieval\.dim 300 is not from 1 to model\.text\.embed_dim 256": {"model": {"retrieval": {"dim": 300}}},
    r"count 9 is not from 1 to model\.retrieval\.entries 5": {
        "model": {"retrieval": {"entries": 5, "count": 9}}
    },
    r"retrieval\.entries is -1, less than 0": {"model": {"retrieval": {"entries": -1}}},
    r"5\.0, 0\.8, -1\.0; none may be less than 0": {"sampling": {"nearest_bonus": -1.0}},
    r"codebook_size 4096 is more than the 2048 that": {"model": {"codebook": {"codebook_size": 4096}}},
    r"latent\.steps is 0": {"model": {"latent": {"steps": 0}}},
    r"split_doublings 2 is more than .* model\.latent\.steps 4": {
        "model": {"latent": {"split_doublings": 2}}
    },
    r"stochastic_steps 5 is not from 1 to model\.latent\.steps 4": {"sampling": {"stochastic_steps": 5}},
    r"guidance_scale 3\.0 needs a network": {"losses": {"text_dropout": 0.0}},
    r"latent\.embed_dim 256 is not a multiple of model\.latent\.heads 5": {"model": {"latent": {"heads": 5}}},
    r"text\.hidden 384 is not a multiple of model\.text\.heads 7": {"model": {"text": {"heads": 7}}},
    r"interpolation_candidates is \[2\.0\]": {"interpolation_candidates": [2.0]},
    r"interpolation_candidates is \[\]": {"interpolation_candidates": []},
    r"discriminator\.channels has 2 entries; 'features' takes one": {
        "model": {"discriminator": {"channels": [8, 8]}}
    },
    r"discriminator\.channels has 3 halvings": {
        "model": {"discriminator": {"input": "pixels", "channels": [8, 8, 8]}}
    },
    r"input is 'text'; choose one of: features, pixels": {"model": {"discriminator": {"input": "text"}}},
    r"corpus is 'cocoa'": {"corpus": "cocoa"},
    r"precision is 'half'": {"precision": "half"},
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_fields_that_contradict_each_other_are_both_named(message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config_from_json({"name": "x", **CONTRADICTIONS[message]})


def test_an_unknown_config_gets_the_nearest_shipped_name() -> None:
    with pytest.raises(UsageError, match="no config 'emoji64'") as caught:
        load_config("emoji64")
    assert "emoji-64" in caught.value.hint


def test_a_config_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{name: x}")
    with pytest.raises(UsageError, match=r"mine\.json: not valid JSON"):
        load_config(str(tmp_path / "mine.json"))
