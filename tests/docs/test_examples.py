"""The examples of docs/how-to/custom-model.md build and draw."""

from pathlib import Path

import pytest

from textual_vision.export.build.build import build_bundle
from textual_vision.export.build.options import BuildOptions
from textual_vision.export.results import PASS
from textual_vision.runtime.pipeline import TextToImage

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.mark.parametrize(
    ("name", "prompt", "shape"),
    [
        ("gan", "", (8, 8, 3)),
        ("class_conditional", "banana", (8, 8, 1)),
        ("own_tokenizer", "red apple", (8, 8, 3)),
        ("sampler", "2", (16, 16, 3)),
    ],
)
def test_an_example_builds_and_draws(name, prompt, shape, tmp_path):
    bundle = tmp_path / "example.tv"
    options = BuildOptions(samples=4, prompts=("red apple", "green forest"))
    result = build_bundle(f"{EXAMPLES / name}.py:make", bundle, options)
    assert result.verdict == PASS
    model = TextToImage.load(bundle)
    first, second = model.generate([prompt], [1]).images[0], model.generate([prompt], [2]).images[0]
    assert first.shape == shape
    assert (first != second).any()
