"""A model from plain modules: what is read from example runs, and what its author is told to write."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from textual_vision.export.model.stage import StagedModel
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.specs import LoopSpec, NoiseSpec, StartSpec

NOISE = NoiseSpec(shape=(4,))


class Painter(nn.Module):
    """A picture of 2 × 2 pixels from noise."""

    def __init__(self, low: float = -1.0) -> None:
        super().__init__()
        self.low = low

    def forward(self, noise):
        return noise.sigmoid().view(-1, 1, 2, 2).expand(-1, 3, -1, -1) * (1 - self.low) + self.low


class Two(nn.Module):
    def forward(self, noise):
        return noise, noise.view(-1, 1, 2, 2).tanh()


class Odd(nn.Module):
    def forward(self, z):
        return z


def model(modules, **given):
    given = {"noise": NOISE, "image_range": (-1, 1), **given}
    return StagedModel.from_modules({name: one.eval() for name, one in modules.items()}, name="m", **given)


def test_names_dtypes_and_shapes_are_those_of_the_runs():
    found = model({"first": Two(), "last": Painter()}, outputs={"first": ("values", "image_small")})
    first, last = (stage.spec for stage in found.stages)
    assert [(one.name, one.dtype, one.shape) for one in first.outputs] == [
        ("values", "float32", ("batch", 4)),
        ("image_small", "uint8", ("batch", 2, 2, 1)),
    ]
    assert [(one.name, one.dtype, one.shape) for one in last.outputs] == [
        ("image", "uint8", ("batch", 2, 2, 3))
    ]
    assert (found.image.height, found.image.width, found.image.channels) == (2, 2, 3)


def test_pixels_span_the_declared_range():
    pixels = model({"painter": Painter()}).stages[0].module(torch.tensor([[-99.0, 99.0, 0.0, 0.0]]))
    assert pixels.shape == (1, 2, 2, 3)
    assert pixels.flatten()[:6].tolist() == [0, 0, 0, 255, 255, 255]


@pytest.mark.parametrize(
    ("modules", "given", "told"),
    [
        ({"painter": Odd()}, {}, "forward takes 'z', which nothing gives; there are noise"),
        ({"first": Two()}, {}, "returns 2 outputs without names"),
        ({"painter": Painter()}, {"image_range": None}, "gives 'image' as floats"),
        ({"painter": Painter()}, {"image_range": (0, 1)}, "below image_range"),
        ({"painter": Painter(0.0)}, {"image_range": (0, 255)}, "black in image_range"),
        ({"painter": Painter()}, {"outputs": {"panter": ("image",)}}, "outputs names 'panter'"),
        ({"painter": Painter()}, {"outputs": {"painter": ("picture",)}}, "no stage gives 'image'"),
        ({"painter": Painter()}, {"inputs": {"painter": ("z",)}}, "which nothing before it gives"),
    ],
)
def test_a_mistake_is_named(modules, given, told):
    with pytest.raises(UsageError) as error:
        model(modules, **given)
    assert told in error.value.message


def test_a_loop_that_begins_with_a_number_needs_the_shape():
    loop = LoopSpec(
        name="loop",
        stages=("painter",),
        steps=2,
        carry={"state": "image"},
        start={"state": StartSpec(fill=0.0)},
    )
    with pytest.raises(UsageError, match="begins 'state' with a number"):
        model({"painter": Painter()}, loops=(loop,))
