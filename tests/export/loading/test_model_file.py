"""A user's Python file runs as a program does; what changes in it changes the fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from textual_vision.export.loading.source import load_model
from textual_vision.runtime.errors import UsageError

PLAIN = """
from small_models import small_model, words, Words
import torch

def make():
    torch.manual_seed(0)
    return small_model(words(Own().eval()))
"""
OWN = "class Own(Words):\n    factor = 1\n"
CONFIGURED = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Config:
    width: int = 8
"""


def written(folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return f"{folder / 'model.py'}:make"


def test_a_file_may_import_its_neighbors_and_have_a_dataclass(tmp_path: Path) -> None:
    source = written(
        tmp_path,
        model=f"{CONFIGURED}from own_layers import Own\n{PLAIN}",
        own_layers=f"from small_models import Words\n{OWN}",
    )
    assert load_model(source).name == "small"


@pytest.mark.parametrize("changed", ["model", "own_layers"])
def test_code_that_changes_makes_another_fingerprint(tmp_path: Path, changed: str) -> None:
    files = {
        "model": f"from own_layers import Own\n{PLAIN}",
        "own_layers": f"from small_models import Words\n{OWN}",
    }
    source = written(tmp_path, **files)
    before = load_model(source).fingerprint
    assert load_model(source).fingerprint == before
    written(tmp_path, **{changed: files[changed] + "\n# changed\n"})
    assert load_model(source).fingerprint != before


def test_neighbors_of_another_folder_are_not_taken_for_its_own(tmp_path: Path) -> None:
    sources = []
    for factor in (1, 2, 3):
        folder = tmp_path / str(factor)
        folder.mkdir()
        own = f"from small_models import Words\n{OWN.replace('1', str(factor))}"
        sources.append(written(folder, model=f"from own_layers import Own\n{PLAIN}", own_layers=own))
    for source in (*sources, *sources):
        module: Any = load_model(source).stages[0].module
        assert module.factor == int(Path(source).parent.name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import no_such_layers\n",
            r"model.py failed: ModuleNotFoundError: .* at model.py:1: import no_such",
        ),
        (
            "def make():\n    return 1 / 0\n",
            r"make\(\) failed: ZeroDivisionError: .* at model.py:2: return 1 / 0",
        ),
        ("def make(:\n", r"model.py failed: SyntaxError: .* at model.py:1"),
        ("import sys\nsys.exit(3)\n", r"model.py failed: SystemExit: 3 at model.py:2"),
    ],
)
def test_whatever_a_file_raises_comes_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_model(written(tmp_path, model=text))
