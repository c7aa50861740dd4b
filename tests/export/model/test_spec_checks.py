"""A description that contradicts itself is refused before anything runs, with the stage and the tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import small_models as small
import torch
from small_models import IMAGE, TEXT, painter, plan, small_model, words

from textual_vision.export.model.spec_checks import check_specs, normalized_model
from textual_vision.export.model.stage import StagedModel, tensor
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import ImageSpec, TextSpec


def text(**fields: Any) -> TextSpec:
    usual = {"tokenizer": "tokenizer.json", "max_tokens": small.MAX_TOKENS, "pad_id": 0, "unknown_id": 1}
    return TextSpec(**{**usual, **fields})


def floats(name: str, *shape: int | str) -> Any:
    return tensor(name, "float32", *shape)


REFUSED: dict[str, tuple[Callable[[], StagedModel], str]] = {
    "an unknown input": (
        lambda: small_model(plan(text=floats("txt", "batch", "tokens", small.WIDTH))),
        "stage 'latent' takes 'txt', which no stage before it gives",
    ),
    "an input of another shape": (
        lambda: small_model(plan(text=floats("text", "batch", "tokens", 3))),
        r"stage 'latent' takes 'text' as float32 \(batch, tokens, 3\), but it is .*\(batch, tokens, 8\)",
    ),
    "a slash in a name": (
        lambda: small_model(words(outputs=[floats("text/words", "batch", "tokens", small.WIDTH)])),
        "stage 'text_encoder': the tensor 'text/words' has no plain name",
    ),
    "the merged graph's name": (
        lambda: small_model(stages=(words(), plan(), painter(name="pipeline"))),
        "a stage is called 'pipeline', the name of the merged graph",
    ),
    "a space in a stage's name": (
        lambda: small_model(stages=(words(name="text encoder"), plan(), painter())),
        "the stage 'text encoder' has no plain name",
    ),
    "two stages of one name": (
        lambda: small_model(stages=(words(), plan(name="Text_Encoder"), painter())),
        "two stages are called 'Text_Encoder'",
    ),
    "a name that a tensor has": (
        lambda: small_model(words(outputs=[TEXT, tensor("input_ids", "int64", "batch", "tokens")])),
        "stage 'text_encoder' gives 'input_ids', a name that another tensor has",
    ),
    "no picture": (
        lambda: small_model(painter(image=tensor("picture", "uint8", "batch", small.SIZE, small.SIZE, 3))),
        "no stage gives 'image'; there are input_ids, .*, picture",
    ),
    "a float picture": (
        lambda: small_model(painter(image=floats("image", "batch", small.SIZE, small.SIZE, 3))),
        r"'image' is float32 \(batch, 8, 8, 3\), not uint8 \(batch, 8, 8, 3\)",
    ),
    "a picture of another size": (
        lambda: small_model(image=ImageSpec(height=16, width=8)),
        r"'image' is uint8 \(batch, 8, 8, 3\), but ImageSpec says height 16 and width 8",
    ),
    "channels first": (
        lambda: small_model(painter(image=tensor("image", "uint8", "batch", 3, small.SIZE, small.SIZE))),
        r"'image' is uint8 \(batch, 3, 8, 8\), not uint8 \(batch, 8, 8, 3\)",
    ),
    "an output without a batch": (
        lambda: small_model(words(outputs=[TEXT, floats("pos", 5, small.WIDTH)])),
        r"stage 'text_encoder': the tensor 'pos' is float32 \(5, 8\): not one row for each prompt",
    ),
    "an unknown type": (
        lambda: small_model(words(outputs=[tensor("text", "float64", "batch", "tokens", small.WIDTH)])),
        "stage 'text_encoder': the tensor 'text' is of type 'float64'",
    ),
    "a size of zero": (
        lambda: small_model(words(outputs=[floats("text", "batch", "tokens", 0)])),
        "stage 'text_encoder': the tensor 'text' has the size 0",
    ),
    "a tokenizer that is none": (
        lambda: small_model(tokenizer=small.word_tokenizer()),
        "StagedModel.tokenizer is a Tokenizer, not bytes",
    ),
    "a padding that the tokenizer lacks": (
        lambda: small_model(text=text(pad_id=999)),
        "StagedModel.tokenizer: .* no token 999",
    ),
    "no room for a word": (
        lambda: small_model(text=text(max_tokens=2)),
        "adds 2 tokens to a prompt of at most 2",
    ),
    "no module": (
        lambda: small_model(painter(len)),
        "'generator': its module is a builtin_function_or_method",
    ),
    "no stage": (lambda: small_model(stages=()), "StagedModel.stages: nothing"),
    "no digest": (lambda: small_model(digest=""), "StagedModel.digest is empty"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_description_that_cannot_hold_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(UsageError, match=message) as caught:
        check_specs(normalized_model(make()))
    assert caught.value.hint


def test_lists_are_taken_for_tuples_and_gray_pictures_have_one_channel() -> None:
    class Gray(small.Painter):
        def forward(self, codes: torch.Tensor) -> torch.Tensor:
            return super().forward(codes)[..., :1]

    image = tensor("image", "uint8", "batch", small.SIZE, small.SIZE, 1)
    model = small_model(stages=[words(), plan(), painter(Gray().eval(), image)])
    found = normalized_model(model)
    check_specs(found)
    assert isinstance(found.stages, tuple)
    assert found.image.channels == 1
    assert normalized_model(small_model()).image.channels == IMAGE.shape[3]


@pytest.mark.parametrize("name", ["a.b.c", "embedding", "MatMul", "generator", "val_3", "output_0"])
def test_a_tensor_may_have_any_plain_name(name: str) -> None:
    own = floats(name, "batch", "tokens", small.WIDTH)
    check_specs(normalized_model(small_model(words(outputs=[own]), plan(text=own))))
