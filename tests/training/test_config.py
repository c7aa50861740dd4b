"""A config says what is wrong with it, by name, and comes back from JSON as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from textual_vision.runtime.errors import UsageError
from textual_vision.training.config import (
    CONFIG_FOLDER,
    ModelConfig,
    TrainConfig,
    config_from_dict,
    config_to_dict,
    load_config,
)

SHIPPED = sorted(path.stem for path in CONFIG_FOLDER.glob("*.json"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_is_valid_named_like_its_file_and_survives_json(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    assert config_from_dict(TrainConfig, json.loads(json.dumps(config_to_dict(config)))) == config


def test_three_scales_are_shipped() -> None:
    assert {"emoji-64", "emoji-128", "coco-256"} <= set(SHIPPED)


def test_an_unknown_field_is_named_with_its_place_and_the_nearest_valid_name() -> None:
    with pytest.raises(UsageError, match=r"unknown field 'model\.latent\.block'") as caught:
        config_from_dict(TrainConfig, {"name": "x", "model": {"latent": {"block": 3}}})
    assert "model.latent.blocks" in caught.value.hint


def test_an_unknown_field_that_is_like_none_gets_a_list() -> None:
    with pytest.raises(UsageError, match="'zzz'") as caught:
        config_from_dict(ModelConfig, {"zzz": 1})
    assert "image_size" in caught.value.hint


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"name": 3}, "name"),
        ({"name": "x", "seed": True}, "seed"),
        ({"name": "x", "ema": "0.9"}, "ema"),
        ({"name": "x", "model": {"codebook": {"channels": [48, "96"]}}}, r"model\.codebook\.channels"),
        ({"name": "x", "model": []}, "model"),
    ],
)
def test_a_value_of_another_type_is_named(values: dict[str, Any], place: str) -> None:
    with pytest.raises(UsageError, match=place):
        config_from_dict(TrainConfig, values)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(UsageError, match="missing field 'name'"):
        config_from_dict(TrainConfig, {})


CONTRADICTIONS: Mapping[str, dict[str, Any]] = {
    r"latent\.grid 16 x 4 .* is not model\.image_size 128": {"model": {"image_size": 128}},
    r"codebook\.channels has 1 halvings": {"model": {"codebook": {"channels": [48]}}},
    r"text\.hidden 384 is not a multiple of model\.text\.groups 7": {"model": {"text": {"groups": 7}}},
    r"latent\.steps is 12: a grid of 8 patches can't be halved": {"model": {"latent": {"steps": 12}}},
    r"latent\.grid 16 is not made of patches of 3 x 3": {"model": {"latent": {"patch": 3}}},
    r"memory_key 300 is not from 1 to model\.text\.width 256": {"model": {"latent": {"memory_key": 300}}},
    r"drafts 9 is not from 1 to model\.latent\.memory 5": {"model": {"latent": {"memory": 5, "drafts": 9}}},
    r"latent\.lead -1\.0 are at least 0": {"model": {"latent": {"lead": -1.0}}},
    r"codebook\.codes 4096 is more than the 2048 that": {"model": {"codebook": {"codes": 4096}}},
    r"latent\.steps is 0": {"model": {"latent": {"steps": 0, "halved": 0}}},
    r"latent\.halved is 2: .* model\.latent\.steps 4": {"model": {"latent": {"steps": 4}}},
    r"latent\.open_steps is 4, not from 1 to model\.latent\.steps 3": {
        "model": {"latent": {"steps": 3, "halved": 0, "open_steps": 4}}
    },
    r"not a multiple of its heads": {"model": {"latent": {"heads": 5}}},
    r"latent_phase\.optimizer is 'sgd', not one of adamw, muon": {
        "latent_phase": {"steps": 1, "batch": 1, "learning_rate": 1.0, "optimizer": "sgd"}
    },
    r"joint_shares is \[2\.0\]": {"joint_shares": [2.0]},
    r"discriminator\.channels has 3 halvings": {"model": {"discriminator": {"channels": [8, 8, 8]}}},
    r"norm is 'layer', not one of none, batch, spectral": {"model": {"discriminator": {"norm": "layer"}}},
    r"sees is 'text', not one of pixels, features": {"model": {"discriminator": {"sees": "text"}}},
    r"'features' contradicts losses\.gradient_penalty": {"model": {"discriminator": {"sees": "features"}}},
    r"'batch' contradicts losses\.gradient_penalty": {"model": {"discriminator": {"norm": "batch"}}},
    r"joint_keeps is 'latent', not one of all, generator": {"joint_keeps": "latent"},
    r"corpus is 'cocoa'": {"corpus": "cocoa"},
    r"precision is 'half'": {"precision": "half"},
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_fields_that_contradict_each_other_are_both_named(message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config_from_dict(TrainConfig, {"name": "x", **CONTRADICTIONS[message]})


def test_an_unknown_config_gets_the_nearest_shipped_name() -> None:
    with pytest.raises(UsageError, match="no config 'emoji64'") as caught:
        load_config("emoji64")
    assert "emoji-64" in caught.value.hint


def test_a_config_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{name: x}")
    with pytest.raises(UsageError, match=r"mine\.json is not JSON"):
        load_config(str(tmp_path / "mine.json"))
