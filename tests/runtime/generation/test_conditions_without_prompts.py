"""A model of labels reads labels, also in an isolated process, which offers a tokenizer to every model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from textual_vision.runtime.generation.conditions import ConditionReader
from textual_vision.runtime.generation.specs import LabelSpec


class NoTokenizer:
    """Fails as the isolated process does for a bundle without a tokenizer."""

    def __getattr__(self, name):
        raise AssertionError(f"{name} was called")


def test_labels_are_read_without_the_tokenizer_that_is_offered():
    manifest = SimpleNamespace(text=None, labels=LabelSpec(names=("cat", "dog")))
    reader = ConditionReader(SimpleNamespace(manifest=manifest), NoTokenizer())
    assert np.array_equal(reader.read(["dog", 0]).tensors["label"], [1, 0])
    assert reader.pieces("dog").tokens == ()
