"""The example in docs/how-to/custom-model.md works as it is printed there."""

from __future__ import annotations

from pathlib import Path

import pytest

from textual_vision.export.build.build import build_bundle
from textual_vision.export.build.options import BuildOptions
from textual_vision.export.loading.source import load_model
from textual_vision.export.results import PASS
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.pipeline import TextToImage

DOCS = Path(__file__).parents[3] / "docs"
SOURCE = f"{DOCS / 'examples' / 'custom_model.py'}:make"


def test_the_documented_model_exports_passes_and_draws(tmp_path: Path) -> None:
    text = (DOCS / "how-to" / "custom-model.md").read_text("utf-8")
    assert "docs/examples/custom_model.py:make" in text
    options = BuildOptions(samples=6, prompts=("red apple", "green forest", "blue sea"))
    result = build_bundle(SOURCE, tmp_path / "colors.tv", options)
    assert result.verdict == PASS
    model = TextToImage.load(tmp_path / "colors.tv")
    red, sea = model("red apple", seed=1), model("blue sea", seed=1)
    assert red.shape == (16, 16, 3)
    assert (red != sea).any() and (red != model("red apple", seed=2)).any()


def test_a_file_or_function_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        load_model(f"{tmp_path / 'nothing.py'}:make")
    with pytest.raises(UsageError, match="no function 'build_it'"):
        load_model(SOURCE.replace(":make", ":build_it"))
    other = tmp_path / "other.py"
    other.write_text("def make():\n    return 3\n")
    with pytest.raises(UsageError, match="gives int, not a StagedModel"):
        load_model(f"{other}:make")
