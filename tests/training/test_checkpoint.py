"""A checkpoint comes back as it was stored, or says which file and tensor is wrong."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from textual_vision.training.config import TextConfig, TrainConfig
from textual_vision.training.models.text_to_image import TextToImageModel
from textual_vision.training.models.vocabulary import pruned_tokenizer


@pytest.fixture
def saved(tiny_config: TrainConfig, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = TextToImageModel(tiny_config.model, tiny_config.sampling)
    tokenizer, _ = pruned_tokenizer(["red disc"], TextConfig(vocabulary=600, max_tokens=12))
    save_checkpoint(tmp_path / "tiny", tiny_config, model.state_dict(), tokenizer, "whose work")
    return tmp_path / "tiny"


def test_a_checkpoint_comes_back_with_config_tokenizer_notice_and_weights(
    saved: Path, tiny_config: TrainConfig
) -> None:
    torch.manual_seed(0)
    model = TextToImageModel(tiny_config.model, tiny_config.sampling)
    checkpoint = load_checkpoint(str(saved))
    assert checkpoint.config == tiny_config
    assert checkpoint.notice == "whose work"
    assert checkpoint.tokenizer.encode("red disc").tokens == ["[CLS]", "red", "disc", "[SEP]"]
    assert not checkpoint.model.training
    loaded = checkpoint.model.state_dict()
    for name, weight in model.state_dict().items():
        if name.startswith("codebook.") or weight.ndim < 2:
            assert torch.equal(loaded[name], weight), name
        else:
            assert torch.equal(loaded[name], weight.half().float()), name


def test_storing_what_was_loaded_changes_nothing(saved: Path, tmp_path: Path) -> None:
    first = load_checkpoint(str(saved))
    again = tmp_path / "again"
    save_checkpoint(again, first.config, first.model.state_dict(), first.tokenizer, first.notice)
    assert (again / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()


def test_a_checkpoint_replaces_one_of_before_and_leaves_nothing_else(saved: Path) -> None:
    first = load_checkpoint(str(saved))
    save_checkpoint(saved, first.config, first.model.state_dict(), first.tokenizer, "another")
    assert load_checkpoint(str(saved)).notice == "another"
    assert [path.name for path in saved.parent.iterdir()] == ["tiny"]


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def drop_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["generator.color.bias"]
    save_file(weights, folder / "model.safetensors")


def reshape_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "generator.color.bias": torch.zeros(4)}, folder / "model.safetensors")


def add_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "generator.extra": torch.zeros(4)}, folder / "model.safetensors")


def age(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "schema_version": 0}))


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def lose_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def break_notice(folder: Path) -> None:
    (folder / "NOTICE").write_bytes(b"\xff\xfe")


def nest_config(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def ask_for_too_much(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["model"]["text"]["vocabulary"] = 10**15
    (folder / "config.json").write_text(json.dumps(values))


def put_nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["generator.color.bias"][1] = float("nan")
    save_file(weights, folder / "model.safetensors")


def make_whole(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    whole = weights["generator.color.bias"].to(torch.int32)
    save_file({**weights, "generator.color.bias": whole}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_notice, "NOTICE is not text"),
        (nest_config, r"config\.json: not valid JSON"),
        (ask_for_too_much, r"config\.json describes a model that cannot be made"),
        (put_nan, r"generator\.color\.bias has values that are not finite"),
        (make_whole, r"generator\.color\.bias is torch\.int32, the model's is torch\.float32"),
        (truncate, r"model\.safetensors can't be read"),
        (drop_tensor, r"tensor generator\.color\.bias is missing"),
        (reshape_tensor, r"generator\.color\.bias is \(4,\), config\.json asks for \(3,\)"),
        (add_tensor, r"generator\.extra is not part of the model"),
        (age, r"schema_version is 0"),
        (break_config, r"config\.json: not valid JSON"),
        (break_tokenizer, r"tokenizer\.json can't be read"),
        (lose_weights, r"model\.safetensors"),
    ],
)
def test_damage_is_named(saved: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(saved)
    with pytest.raises(IntegrityError, match=message) as caught:
        load_checkpoint(str(saved))
    assert caught.value.hint


def test_a_full_disk_is_the_systems_error_and_the_checkpoint_before_stays(saved: Path) -> None:
    first = load_checkpoint(str(saved))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            save_checkpoint(saved, first.config, first.model.state_dict(), first.tokenizer, "another")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint(str(saved)).notice == "whose work"
    assert [path.name for path in saved.parent.iterdir()] == ["tiny"]


def test_a_config_of_another_architecture_is_told_by_the_first_tensor_that_does_not_fit(saved: Path) -> None:
    values = json.loads((saved / "config.json").read_text())
    values["model"]["generator"]["channels"] = [24, 8]
    (saved / "config.json").write_text(json.dumps(values))
    with pytest.raises(IntegrityError, match=r"generator\.entry\.weight is \(16, .*asks for \(24, "):
        load_checkpoint(str(saved))


def test_what_is_no_checkpoint_is_refused(saved: Path, tmp_path: Path) -> None:
    shutil.rmtree(saved)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is not a checkpoint"):
        find_checkpoint(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="no checkpoint 'nonsense'"):
        find_checkpoint("nonsense")
