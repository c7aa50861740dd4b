"""A model with its own tokenizer: `tv-export build docs/examples/own_tokenizer.py:make -o words.tv`."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from textual_vision.export import StagedModel
from textual_vision.runtime.generation.specs import NoiseSpec

WORDS = ("[PAD]", "[UNK]", "red", "green", "blue", "apple", "forest", "sea")


class TextEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 16)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weights = attention_mask / attention_mask.sum(1, keepdim=True)
        return (self.embedding(input_ids) * weights[:, :, None]).sum(1)


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(32, 16 * 4 * 4)
        self.up = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh())

    def forward(self, sentence: Tensor, noise: Tensor) -> Tensor:
        return self.up(self.start(torch.cat((sentence, noise), dim=1)).unflatten(1, (16, 4, 4)))


def make() -> StagedModel:
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return StagedModel.from_modules(
        {"text_encoder": TextEncoder().eval(), "generator": Generator().eval()},
        name="words",
        tokenizer=tokenizer,
        max_tokens=12,
        outputs={"text_encoder": ("sentence",)},
        noise=NoiseSpec(shape=(16,)),
        image_range=(-1, 1),
    )
