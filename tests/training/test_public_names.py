"""`textual_vision.training` has the names that users may call; only some of them need torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import textual_vision.training as training


@pytest.mark.parametrize("name", training.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(training, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        training.trian  # noqa: B018


def test_reading_a_config_needs_no_torch() -> None:
    script = "import sys\nfrom textual_vision.training import load_config\nload_config('emoji-64')\n"
    done = subprocess.run([sys.executable, "-c", script + "sys.exit('torch' in sys.modules)"], check=False)
    assert done.returncode == 0
