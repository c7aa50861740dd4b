"""The alignment of pictures and captions: two small towers over pretrained features, trained on real pairs.

The towers share no weights with a generator, which would otherwise be fitted to them. Their recall on real
held-out pictures is the ceiling of the score of generated pictures.

FOLDER/alignment.safetensors   weights, float16
FOLDER/alignment.json          dimensions, and scores on real pictures
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.files import write_atomic
from textual_vision.training.config import TextConfig
from textual_vision.training.evaluation.features import FEATURES
from textual_vision.training.models.caption_encoder import ids_from_captions
from textual_vision.training.models.text_encoder import WordEncoder
from textual_vision.training.models.vocabulary import minilm_folder, warm_start

SHIPPED_FOLDER = Path(__file__).parents[1] / "checkpoints" / "alignment"
WEIGHTS, ABOUT = "alignment.safetensors", "alignment.json"
SENTENCE = 384
LAYERS, MAX_TOKENS = 6, 64  # all layers of MiniLM
WIDTH = 256
HIDDEN = 384
DROPOUT = 0.3
NOISE = 0.1  # added to standardized features while training: the sets are small
STEPS, BATCH, RATE = 1500, 512, 1e-3
TEMPERATURE = 0.07
CHUNK = 64  # captions encoded at once


class Towers(nn.Module):
    """EfficientNet-Lite2 features and MiniLM sentences as unit vectors of one space."""

    def __init__(self) -> None:
        super().__init__()
        self.image = _tower(FEATURES)
        self.text = _tower(SENTENCE)
        self.image_mean, self.image_std = _buffers(self, "image", FEATURES)
        self.text_mean, self.text_std = _buffers(self, "text", SENTENCE)

    def embed_pictures(self, features: Tensor) -> Tensor:
        """EfficientNet-Lite2 features (N, 1280) -> unit vectors (N, 256)."""
        x = self._noisy((features - self.image_mean) / self.image_std)
        return F.normalize(self.image(x), dim=1)

    def embed_sentences(self, sentences: Tensor) -> Tensor:
        """Sentence vectors (N, 384) -> unit vectors (N, 256)."""
        x = self._noisy((sentences - self.text_mean) / self.text_std)
        return F.normalize(self.text(x), dim=1)

    def _noisy(self, x: Tensor) -> Tensor:
        return x + NOISE * torch.randn_like(x) if self.training else x


def _tower(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, HIDDEN), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, WIDTH))


def _buffers(module: nn.Module, name: str, width: int) -> tuple[Tensor, Tensor]:
    mean, std = torch.zeros(width), torch.ones(width)
    module.register_buffer(f"{name}_mean", mean)
    module.register_buffer(f"{name}_std", std)
    return mean, std


class Sentences:
    """MiniLM's sentence vectors: the mean of the last layer's token states."""

    def __init__(self) -> None:
        source = str(minilm_folder() / "tokenizer.json")
        self.tokenizer: Tokenizer = Tokenizer.from_file(source)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        pieces = self.tokenizer.get_vocab_size()
        config = TextConfig(vocabulary=pieces, layers=LAYERS, max_tokens=MAX_TOKENS)
        self.model = WordEncoder(config)
        warm_start(self.model, config, list(range(pieces)))

    @torch.no_grad()
    def vectors(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Captions -> float32 (N, 384), unit length."""
        order = sorted(range(len(captions)), key=lambda index: len(captions[index]))
        found = np.zeros((len(captions), SENTENCE), np.float32)
        for start in range(0, len(order), CHUNK):
            part = order[start : start + CHUNK]
            ids, mask = ids_from_captions(self.tokenizer, [captions[index] for index in part])
            states = self.model(ids, mask)
            weights = mask[:, :, None].float()
            found[part] = F.normalize((states * weights).sum(1) / weights.sum(1), dim=1).numpy()
        return found


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Features (N, 1280) of pictures, and for each the rows of its captions in `sentences` (M, 384).

    Pictures of one `concept` are never each other's negatives.
    """

    features: NDArray[np.float32]
    sentences: NDArray[np.float32]
    rows: list[list[int]]
    concepts: list[str]


def train_towers(pairs: Pairs, *, seed: int = 0, steps: int = STEPS) -> Towers:
    """Towers trained by InfoNCE over real pairs; deterministic for a seed and a number of threads."""
    torch.manual_seed(seed)
    towers = Towers()
    features, sentences = torch.from_numpy(pairs.features), torch.from_numpy(pairs.sentences)
    towers.image_mean.copy_(features.mean(0))
    towers.image_std.copy_(features.std(0) + 1e-3)
    towers.text_mean.copy_(sentences.mean(0))
    towers.text_std.copy_(sentences.std(0) + 1e-3)
    _, concept = np.unique(pairs.concepts, return_inverse=True)
    concepts = torch.from_numpy(concept)
    optimizer = torch.optim.AdamW(towers.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    random = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = random.choice(len(features), min(BATCH, len(features)), replace=False)
        said = [pairs.rows[i][random.integers(len(pairs.rows[i]))] for i in chosen]
        loss = contrast(
            towers.embed_pictures(features[chosen]), towers.embed_sentences(sentences[said]), concepts[chosen]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return towers.eval()


def contrast(pictures: Tensor, sentences: Tensor, concepts: Tensor) -> Tensor:
    """InfoNCE (van den Oord et al. 2018) in nats, both ways; pictures of one concept are no negatives."""
    logits = pictures @ sentences.T / TEMPERATURE
    same = concepts[:, None] == concepts[None, :]
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, -1e4)
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def recall_at_1(
    towers: Towers, features: NDArray[np.float32], sentences: NDArray[np.float32], own: Sequence[int]
) -> float:
    """Share of pictures whose nearest of all `sentences` (M, 384) is their own, the row `own[i]`."""
    pictures = towers.embed_pictures(torch.from_numpy(features))
    texts = towers.embed_sentences(torch.from_numpy(sentences))
    found = (pictures @ texts.T).argmax(1)
    return float((found == torch.tensor(own)).float().mean())


def save_towers(towers: Towers, about: dict[str, Any], folder: Path) -> None:
    """Write weights in float16 and `about` as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: w.half().contiguous() for name, w in towers.state_dict().items()}
    write_atomic(folder / WEIGHTS, save(weights))
    write_atomic(folder / ABOUT, (json.dumps(about, indent=2) + "\n").encode())


def load_towers(folder: Path = SHIPPED_FOLDER) -> tuple[Towers, dict[str, Any]]:
    """The towers and their JSON; UsageError when there are none, IntegrityError when they are damaged."""
    if not (folder / WEIGHTS).is_file():
        raise UsageError(f"no alignment model at {folder}", "train one: tv-train alignment --corpus FOLDER")
    towers = Towers()
    try:
        weights = load_file(folder / WEIGHTS)
        towers.load_state_dict({name: w.float() for name, w in weights.items()})
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise IntegrityError(f"the alignment model at {folder} is damaged: {error}") from error
    return towers.eval(), about
