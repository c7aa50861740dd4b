"""A model that cannot be exported is refused within seconds, with the stage and the line or weight."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import small_models as small
import torch
from small_models import IDS, MASK, TEXT, Painter, Plan, Words, painter, plan, small_model, words
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from textual_vision.export.model.running import condition_of, run_model
from textual_vision.export.model.stage import Stage, StagedModel, tensor
from textual_vision.export.model.trial import tried_model
from textual_vision.runtime.errors import UsageError

PROMPTS, SEEDS = ("red apple", "a cat wearing sunglasses"), (1, 2)


class WordsThen(Words):
    """Words, changed by `change`."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.change(super().forward(input_ids, attention_mask))


class Body(nn.Module):
    """A picture's body with `middle` before it."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.middle, self.last = middle, nn.ConvTranspose2d(small.WIDTH, 3, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.middle(x))
        return found


class Counting(Painter):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, codes: Tensor) -> Tensor:
        self.count += 1
        return super().forward(codes)


class InPlace(Plan):
    def forward(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Tensor:
        return super().forward(text.mul_(0.5), attention_mask, noise.mul_(0.5))


class NotInPlace(Plan):
    def forward(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Tensor:
        return super().forward(text * 0.5, attention_mask, noise * 0.5)


class BatchMean(Plan):
    def forward(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Tensor:
        return super().forward(text, attention_mask, noise - noise.mean(0))


class Autocast(Painter):
    def forward(self, codes: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(codes)


class AnyInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Words()

    def forward(self, *inputs: Tensor) -> Tensor:
        found: Tensor = self.inner(*inputs)
        return found


class Positions(Words):
    """With a table of positions that is too short."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(5, small.WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return super().forward(input_ids, attention_mask) + self.positions(torch.arange(input_ids.shape[1]))


def middle(module: nn.Module) -> Stage:
    return painter(Painter(Body(module)).eval())


def then(change: Callable[[Tensor], Any], outputs: tuple[Any, ...] = (TEXT,)) -> Stage:
    return words(WordsThen(change).eval(), outputs)


def spoiled(value: float) -> Stage:
    module = Words().eval()
    module.embedding.weight.data[4, 2] = value
    return words(module)


def on_meta() -> Stage:
    with torch.device("meta"):
        return words(Words().eval())


def traced() -> Stage:
    example = torch.zeros(2, small.GRID, small.GRID, dtype=torch.int64)
    return painter(torch.jit.trace(Painter().eval(), example))


def program() -> Stage:
    example = torch.zeros(1, small.GRID, small.GRID, dtype=torch.int64)
    return painter(torch.export.export(Painter().eval(), (example,)).module())


def dynamically_quantized() -> Stage:
    linear = nn.Sequential(nn.Linear(small.GRID, small.GRID)).eval()
    return middle(torch.ao.quantization.quantize_dynamic(linear, {nn.Linear}, torch.qint8))


REFUSED: dict[str, tuple[Callable[[], Stage], str]] = {
    "active dropout": (
        lambda: then(lambda x: F.dropout(x, 0.3)),
        r"'text_encoder' draws random numbers by itself \(dropout at test_trial.py:\d+\)",
    ),
    "random numbers": (
        lambda: then(lambda x: x + torch.randn_like(x)),
        r"'text_encoder' draws random numbers by itself \(randn_like at test_trial.py:\d+\)",
    ),
    "Python's random": (lambda: then(lambda x: x + random.random()), r"by itself \(Python's random\)"),
    "numpy's random": (lambda: then(lambda x: x + np.random.rand()), r"by itself \(numpy.random\)"),
    "dropout in train mode": (
        lambda: words(nn.Sequential(Words(), nn.Dropout()).train()),
        "'text_encoder': its module Dropout '1' is in train mode",
    ),
    "batch norm in train mode": (
        lambda: painter(Painter(Body(nn.BatchNorm2d(small.WIDTH))).train()),
        "'generator': its module BatchNorm2d 'body.middle' is in train mode",
    ),
    "a NaN weight": (lambda: spoiled(float("nan")), "the weight 'embedding.weight' holds NaN"),
    "an infinite weight": (lambda: spoiled(float("inf")), "gives an infinite number in 'text'"),
    "a NaN output": (lambda: then(lambda x: x / 0 * 0), "'text_encoder' gives NaN in 'text'"),
    "meta device": (on_meta, "'embedding.weight' is on the device meta"),
    "bfloat16": (lambda: painter(Painter().eval().bfloat16()), "'rows.weight' is of type bfloat16"),
    "float64": (lambda: painter(Painter().eval().double()), "'rows.weight' is of type float64"),
    "autocast": (
        lambda: painter(Autocast().eval()),
        r"'generator' computes in bfloat16 \(\w+ at small_models.py:\d+\)",
    ),
    "control flow": (
        lambda: then(lambda x: torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y + 1, (x,))),
        r"'text_encoder' has control flow \(cond at test_trial.py:\d+\)",
    ),
    "a traced module": (traced, "'generator': its module is a TopLevelTracedModule, made by torch.jit"),
    "a program of torch.export": (program, "'generator': its module is a program of torch.export"),
    "a scripted part": (
        lambda: middle(torch.jit.script(nn.ReLU().eval())),
        "its module 'body.middle' is a RecursiveScriptModule",
    ),
    "a quantized part": (dynamically_quantized, "'body.middle.0' is a Linear, quantized by PyTorch"),
    "a lazy layer": (lambda: middle(nn.LazyConv2d(8, 1)), "'body.middle.weight' has no shape yet"),
    "a counter": (lambda: painter(Counting().eval()), "'generator' changes 'count' while it runs"),
    "statistics of the batch": (
        lambda: plan(BatchMean().eval()),
        "'latent' gives another 'codes' for a prompt alone than among others",
    ),
    "another type": (lambda: then(Tensor.half), r"gives 'text' as float16 .* the spec says float32"),
    "another shape": (lambda: then(lambda x: x[..., :4]), r"gives 'text' as float32 \(3, \d+, 4\)"),
    "too few outputs": (
        lambda: then(lambda x: x, (TEXT, tensor("more", "float32", "batch", 3))),
        r"'text_encoder' returns 1 outputs \(float32 .*\); its spec names \(text, more\)",
    ),
    "other names": (
        lambda: then(lambda x: {"words": x}),
        r"'text_encoder' returns \(words\); its spec names \(text\)",
    ),
    "no tensor": (lambda: then(lambda x: (None,)), "the output 'text' is NoneType, not a tensor"),
    "a table that is too short": (
        lambda: words(Positions().eval()),
        r"'text_encoder' on its first prompts failed: IndexError: .* at test_trial.py:\d+: return super",
    ),
}


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:UserWarning")
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_exported_is_named(name: str) -> None:
    torch.manual_seed(0)
    make, message = REFUSED[name]
    with pytest.raises(UsageError, match=message) as caught:
        tried_model(small_model(make()))
    assert caught.value.hint


def test_an_index_that_a_table_lacks_comes_with_the_values_that_were_given() -> None:
    with pytest.raises(UsageError) as caught:
        tried_model(small_model(words(Positions().eval())))
    assert "input_ids int64 (3, 10) of 0 to 14" in caught.value.hint


def pictures(model: StagedModel) -> np.ndarray[Any, Any]:
    tensors, _ = run_model(model, condition_of(model, PROMPTS), SEEDS)
    return np.asarray(tensors["image"])


def doubled() -> Stage:
    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight * 2

    convolution = nn.Conv2d(small.WIDTH, small.WIDTH, 1)
    parametrize.register_parametrization(convolution, "weight", Doubled())
    return middle(convolution)


def short_rows() -> Stage:
    module = Words()
    module.embedding = nn.Embedding(len(small.PIECES), small.WIDTH, max_norm=1.0)
    return words(module.eval())


WORKS: dict[str, Callable[[], Stage]] = {
    "a list": lambda: then(lambda x: [x]),
    "a dictionary": lambda: then(lambda x: {"text": x}),
    "any inputs": lambda: words(AnyInputs().eval()),
    "a wrapper that trains in parallel": lambda: words(nn.DataParallel(Words()).eval()),
    "a compiled module": lambda: words(torch.compile(Words().eval(), backend="eager")),
    "rows that are shortened when they are read": short_rows,
    "a parametrized weight": doubled,
    "half weights": lambda: then(lambda x: x.half().float()),
}


@pytest.mark.parametrize("name", sorted(WORKS))
def test_these_draw_what_the_model_draws(name: str) -> None:
    torch.manual_seed(0)
    model = small_model(WORKS[name]())
    expected = pictures(model)
    assert (pictures(tried_model(model)) == expected).all()


def test_parametrized_weights_are_plain_afterwards() -> None:
    module = tried_model(small_model(doubled())).stage("generator").module
    assert [name for name, _ in module.named_parameters() if "middle" in name] == [
        "body.middle.bias",
        "body.middle.weight",
    ]


def test_code_in_place_changes_no_other_stage() -> None:
    found = []
    for kind in (InPlace, NotInPlace):
        torch.manual_seed(0)
        found.append(pictures(tried_model(small_model(plan(kind().eval())))))
    assert (found[0] == found[1]).all()


def test_the_fingerprint_says_what_is_drawn() -> None:
    found = []
    for factor in (1, 1, 2):
        torch.manual_seed(0)
        found.append(tried_model(small_model(then(lambda x, factor=factor: x * factor))).fingerprint)
    assert found[0] == found[1] != found[2]


class EndOfText(Words):
    """Text (batch, width, tokens), and the place of its last token (batch,)."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return super().forward(input_ids, attention_mask).transpose(1, 2), attention_mask.sum(1) - 1


class FromEnd(Plan):
    def forward(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Tensor:
        return super().forward(text.transpose(1, 2), attention_mask, noise)


def test_tokens_may_be_any_axis_and_integers_may_have_one() -> None:
    turned = tensor("text", "float32", "batch", small.WIDTH, "tokens")
    encoder = small.stage(
        "text_encoder", EndOfText().eval(), (IDS, MASK), (turned, tensor("end", "int64", "batch"))
    )
    model = tried_model(small_model(encoder, plan(FromEnd().eval(), turned)))
    assert pictures(model).shape == (2, small.SIZE, small.SIZE, 3)
