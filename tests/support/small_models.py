"""A model of three small stages, text_encoder, latent and generator, with parts to exchange."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn

from textual_vision.export.model.stage import Stage, StagedModel, tensor
from textual_vision.runtime.generation.specs import NoiseSpec
from textual_vision.runtime.manifest import ImageSpec, StageSpec, TensorSpec, TextSpec

WORDS = ["dog", "cat", "wearing", "sunglasses", "green", "forest", "with", "river", "red", "apple", "a"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
WIDTH, NOISE, GRID, CODES, SIZE, MAX_TOKENS = 8, 4, 4, 16, 8, 10
IDS = tensor("input_ids", "int64", "batch", "tokens")
MASK = tensor("attention_mask", "int64", "batch", "tokens")
TEXT = tensor("text", "float32", "batch", "tokens", WIDTH)
NOISES = tensor("noise", "float32", "batch", NOISE)
CODE = tensor("codes", "int64", "batch", GRID, GRID)
IMAGE = tensor("image", "uint8", "batch", SIZE, SIZE, 3)


class Words(nn.Module):
    """ids, mask → text."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(PIECES), WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.embedding(input_ids) * attention_mask.unsqueeze(2).float()


class Plan(nn.Module):
    """text, mask, noise → codes."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.noise = (nn.Linear(width, GRID * GRID * WIDTH) for width in (WIDTH, NOISE))
        self.book = nn.Parameter(torch.randn(CODES, WIDTH))

    def forward(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Tensor:
        share = attention_mask.float().unsqueeze(2)
        z = self.words((text * share).sum(1) / share.sum(1)) + self.noise(noise)
        unit = nn.functional.normalize(z.unflatten(1, (GRID, GRID, WIDTH)), dim=3)
        return (unit @ self.book.T).argmax(3)


class Painter(nn.Module):
    """codes → image; `body` maps (batch, WIDTH, GRID, GRID) to (batch, 3, SIZE, SIZE)."""

    def __init__(self, body: nn.Module | None = None) -> None:
        super().__init__()
        self.rows = nn.Embedding(CODES, WIDTH)
        self.body = body or nn.ConvTranspose2d(WIDTH, 3, 4, 2, 1)

    def forward(self, codes: Tensor) -> Tensor:
        signed = torch.tanh(self.body(self.rows(codes).permute(0, 3, 1, 2)))
        return (signed * 127.5 + 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)


def stage(name: str, module: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Stage:
    return Stage(module=module, spec=StageSpec(name=name, inputs=tuple(inputs), outputs=tuple(outputs)))


def words(
    module: nn.Module | None = None, outputs: Sequence[TensorSpec] = (TEXT,), name: str = "text_encoder"
) -> Stage:
    return stage(name, Words().eval() if module is None else module, (IDS, MASK), outputs)


def plan(module: nn.Module | None = None, text: TensorSpec = TEXT, name: str = "latent") -> Stage:
    return stage(name, Plan().eval() if module is None else module, (text, MASK, NOISES), (CODE,))


def painter(module: nn.Module | None = None, image: TensorSpec = IMAGE, name: str = "generator") -> Stage:
    return stage(name, Painter().eval() if module is None else module, (CODE,), (image,))


def small_model(*stages: Stage, **fields: object) -> StagedModel:
    """The three stages, each replaced by the one of `stages` with its name, and other `fields`."""
    own = {one.name: one for one in stages}
    usual = {"text_encoder": words, "latent": plan, "generator": painter}
    chosen = tuple(own[name] if name in own else make() for name, make in usual.items())
    values: dict[str, object] = {
        "name": "small",
        "stages": chosen,
        "image": ImageSpec(height=SIZE, width=SIZE),
        "noise": (NoiseSpec(shape=(NOISE,)),),
        "text": TextSpec(tokenizer="tokenizer.json", max_tokens=MAX_TOKENS, pad_id=0, unknown_id=1),
        "tokenizer": word_tokenizer().to_str().encode(),
        "license": "Apache-2.0",
        "notice": "random weights\n",
        "digest": hashlib.sha256(b"small").hexdigest(),
    }
    return StagedModel(**{**values, **fields})  # type: ignore[arg-type]


def word_tokenizer() -> Tokenizer:
    found = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return found
