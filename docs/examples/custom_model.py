"""A text-to-image model of your own, as `tv-export build custom_model.py:make` takes it.

Three modules in the order in which they run. This one maps words to colors and draws them on a grid; a real
one loads its trained weights where this one seeds random ones.
"""

from __future__ import annotations

import hashlib

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn

from textual_vision.export import Stage, StagedModel, tensor
from textual_vision.runtime.generation.specs import NoiseSpec
from textual_vision.runtime.manifest import ImageSpec, StageSpec, TextSpec

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "apple", "forest", "sea"]
WIDTH, NOISE, GRID, CODES, SIZE, MAX_TOKENS, GROUPS = 16, 4, 4, 32, 16, 10, 1


class Words(nn.Module):
    """ids, mask → text_codes, text, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(PIECES), WIDTH)
        self.score = nn.Linear(WIDTH, 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        text = self.embedding(input_ids)
        scores = self.score(text).squeeze(2) - 1e4 * (1 - attention_mask.to(text.dtype))
        return input_ids.unsqueeze(2) * 1, text, torch.softmax(scores, dim=1)


class Plan(nn.Module):
    """text, mask, noise → codes."""

    def __init__(self) -> None:
        super().__init__()
        self.from_text = nn.Linear(WIDTH, GRID * GRID * WIDTH)
        self.from_noise = nn.Linear(NOISE, GRID * GRID * WIDTH, bias=False)
        self.book = nn.Parameter(torch.randn(CODES, WIDTH))

    def latents(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Tensor:
        mask = attention_mask.to(text.dtype).unsqueeze(2)
        mean = (text * mask).sum(1) / mask.sum(1)
        latents = self.from_text(mean) + self.from_noise(noise)
        return nn.functional.normalize(latents.unflatten(1, (GRID, GRID, WIDTH)), dim=3)

    def forward(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Tensor:
        return (self.latents(text, attention_mask, noise) @ self.book.T).argmax(3)


class Painter(nn.Module):
    """codes → image."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(CODES, WIDTH)
        self.ups = nn.Sequential(
            nn.ConvTranspose2d(WIDTH, 12, 4, stride=2, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.ConvTranspose2d(12, 3, 4, stride=2, padding=1),
        )

    def forward(self, codes: Tensor) -> Tensor:
        signed = torch.tanh(self.ups(self.rows(codes).permute(0, 3, 1, 2)))
        pixels = (signed * 127.5 + 127.5).round().clamp(0, 255)
        return pixels.permute(0, 2, 3, 1).to(torch.uint8)  # the conversion last: TensorRT asks for it


def make() -> StagedModel:
    """What `tv-export build` calls."""
    torch.manual_seed(0)
    words, plan, painter = Words().eval(), Plan().eval(), Painter().eval()
    tokenizer = color_tokenizer().to_str().encode()
    text = (
        tensor("text", "float32", "batch", "tokens", WIDTH),
        tensor("attention_mask", "int64", "batch", "tokens"),
    )
    codes = tensor("codes", "int64", "batch", GRID, GRID)
    return StagedModel(
        name="colors",
        stages=(
            Stage(
                module=words,
                spec=StageSpec(
                    name="text_encoder",
                    inputs=(tensor("input_ids", "int64", "batch", "tokens"), text[1]),
                    outputs=(
                        tensor("text_codes", "int64", "batch", "tokens", GROUPS),
                        text[0],
                        tensor("attention", "float32", "batch", "tokens"),
                    ),
                ),
            ),
            Stage(
                module=plan,
                spec=StageSpec(
                    name="latent",
                    inputs=(*text, tensor("noise", "float32", "batch", NOISE)),
                    outputs=(codes,),
                ),
                margins=lambda inputs: {"codes": margin(plan, inputs)},
            ),
            Stage(
                module=painter,
                spec=StageSpec(
                    name="generator",
                    inputs=(codes,),
                    outputs=(tensor("image", "uint8", "batch", SIZE, SIZE, 3),),
                ),
            ),
        ),
        image=ImageSpec(height=SIZE, width=SIZE),
        noise=(NoiseSpec(shape=(NOISE,)),),
        text=TextSpec(
            tokenizer="tokenizer.json",
            max_tokens=MAX_TOKENS,
            pad_id=0,
            unknown_id=1,
        ),
        tokenizer=tokenizer,
        license="Apache-2.0",
        notice="Random weights: nobody's work.\n",
        tables={"codes": CODES},  # int8 is calibrated on prompts that visit many of these rows
        digest=hashlib.sha256(b"colors 1").hexdigest(),  # of your weights: kept steps depend on it
    )


def margin(plan: Plan, inputs: dict[str, Tensor]) -> Tensor:
    """By how much the best code beats the second: what tells a near tie from an error."""
    latents = plan.latents(inputs["text"], inputs["attention_mask"], inputs["noise"])
    best = (latents @ plan.book.T).topk(2, dim=3).values
    return best[..., 0] - best[..., 1]


def color_tokenizer() -> Tokenizer:
    """Any tokenizer of the tokenizers library will do."""
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer
