"""Published weights become a model by the family's name: which file is which, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from textual_vision.export.build.build import build_bundle
from textual_vision.export.build.options import BuildOptions
from textual_vision.export.families.dcgan import CganGenerator
from textual_vision.export.families.registry import (
    FAMILIES,
    FamilySource,
    family_by_name,
    family_source,
    files_of_family,
    source_of_family,
)
from textual_vision.export.loading.source import load_model
from textual_vision.export.model.running import condition_of, run_model
from textual_vision.export.results import PASS
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.pipeline import TextToImage

DATA = Path(__file__).parents[2] / "data" / "families"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_loader_exists_and_lists_its_files(family):
    import importlib
    import inspect

    module, _, name = family.loader.partition(":")
    function = getattr(importlib.import_module(f"textual_vision.export.families.{module}"), name)
    given = [one for one in inspect.signature(function).parameters.values() if one.default is one.empty]
    assert len(given) == len([role for role in family.roles if not role.optional])


def test_a_folder_of_weights_builds_and_draws_what_the_original_drew(tmp_path):
    source = source_of_family("df-gan", [str(DATA / "df-gan")])
    with np.load(DATA / "df-gan" / "expected.npz") as arrays:
        captions = [str(caption) for caption in arrays["captions"] if "zzz" not in str(caption)]
    model = load_model(source)
    condition = condition_of(model, captions[:1])
    tensors, _ = run_model(model, condition, [1])
    assert tensors["image"].shape == (1, 256, 256, 3)
    options = BuildOptions(samples=2, prompts=tuple(captions))
    assert build_bundle(source, tmp_path / "bird.tv", options).verdict == PASS
    drawn = TextToImage.load(tmp_path / "bird.tv").generate(captions[:1], [1]).images[0]
    assert np.abs(drawn.astype(int) - tensors["image"][0]).max() <= 1


def test_a_class_is_named_by_its_number(tmp_path):
    torch.manual_seed(0)
    network = CganGenerator(classes=3, embedding=3, noise_dim=5, widths=(8, 3 * 4 * 4))
    torch.save(network.state_dict(), tmp_path / "cgan.pth")
    source = source_of_family("cgan", [str(tmp_path / "cgan.pth")])
    assert build_bundle(source, tmp_path / "c.tv", BuildOptions(samples=3)).verdict == PASS
    model = TextToImage.load(tmp_path / "c.tv")
    one, two = (model.generate([label], [1]).images[0] for label in ("0", "2"))
    assert (one != two).any()
    with pytest.raises(UsageError, match="3"):
        model.generate(["3"], [1])


def test_a_source_of_several_files_is_read_back():
    source = source_of_family("df-gan", ["a.pth", "b/c.pickle"])
    files = (Path("a.pth"), Path("b/c.pickle"))
    assert family_source(source) == FamilySource(name="df-gan", paths=files)
    source = source_of_family("paella", ["a.pt"], ["steps=3", "grid=8"])
    options = ("steps=3", "grid=8")
    assert family_source(source) == FamilySource(name="paella", paths=(Path("a.pt"),), options=options)
    assert family_source("model.py:make") is None
    with pytest.raises(UsageError, match="a path with a comma"):
        source_of_family("df-gan", ["a,b.pth"])


def test_files_are_told_apart_by_their_names_and_looked_for_in_one_folder():
    family = family_by_name("df-gan")
    found = files_of_family(family, [DATA / "df-gan" / "state_epoch_1220.pth"])
    assert {role: path.name for role, path in found.items()} == {
        "generator": "state_epoch_1220.pth",
        "text_encoder": "text_encoder200.pth",
        "vocabulary": "captions_DAMSM.pickle",
    }


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["state_epoch_1.pth"], "df-gan needs its text_encoder too"),
        (["state_epoch_1.pth", "netG.pth"], "could be the generator of df-gan"),
        (["notes.docx"], "notes.docx is no file of df-gan"),
    ],
)
def test_files_that_do_not_fit_are_named(names, told, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=told):
        files_of_family(family_by_name("df-gan"), [tmp_path / name for name in names])


def test_weights_of_another_family_are_recognized():
    weights = DATA / "df-gan" / "state_epoch_1220.pth"
    with pytest.raises((UsageError, IntegrityError)) as error:
        load_model(source_of_family("dcgan", [str(weights)]))
    assert error.value.hint == "state_epoch_1220.pth looks like df-gan: --family df-gan"


def test_an_unknown_family_is_answered_with_the_nearest():
    with pytest.raises(UsageError) as error:
        family_by_name("dfgan")
    assert "did you mean 'df-gan'?" in error.value.hint
