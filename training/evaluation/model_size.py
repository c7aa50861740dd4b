"""The size of a model, and the cost of one picture, by stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from textual_vision.training.config import ModelConfig, TrainConfig
from textual_vision.training.models.discriminator import make_discriminator
from textual_vision.training.models.text_to_image import TextToImageModel, stages_from_model

FLOPS_PER_MAC = 2  # as torch counts them


@dataclass(frozen=True, kw_only=True)
class StageSize:
    """The size of one stage.

    `weights` counts parameters and tables: codebook rows, text codes and the retrieval index.
    `multiply_accumulates` is None for a network that only training uses.
    """

    stage: str
    weights: int
    multiply_accumulates: int | None  # for one picture; matrix products and convolutions


def describe(config: TrainConfig) -> list[StageSize]:
    """Sizes of the three stages in order, then of the networks for training; for prompts of full length."""
    with torch.device("meta"):
        model = TextToImageModel(config.model, config.sampling).eval()
    discriminator = make_discriminator(config.model)
    costs = _costs(model, config.model)
    book = model.codebook.rows.numel()
    sizes = {
        "text_encoder": _weights(model.text_encoder) + model.text_encoder.quantizer.centroids.numel(),
        "latent": _weights(model.latent) + book + _retrieval_index(model),
        "generator": _weights(model.generator),
    }
    generating = [StageSize(stage=n, weights=w, multiply_accumulates=costs[n]) for n, w in sizes.items()]
    trained_only = {
        "image encoder": model.image_encoder,
        "posterior": model.posterior,
        "discriminator": discriminator,
    }
    return generating + [
        StageSize(stage=f"{name} (training only)", weights=_weights(part), multiply_accumulates=None)
        for name, part in trained_only.items()
    ]


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _retrieval_index(model: TextToImageModel) -> int:
    index = model.latent.retrieval
    return 0 if index is None else sum(table.numel() for table in index.buffers())


def _costs(model: TextToImageModel, config: ModelConfig) -> dict[str, int]:
    """Multiply-accumulates of one picture, counted on the meta device without computing."""
    stages = stages_from_model(model)
    tokens = config.text.max_tokens
    whole: dict[str, Any] = {"dtype": torch.int64, "device": "meta"}
    real: dict[str, Any] = {"device": "meta"}
    ids, mask = torch.ones(1, tokens, **whole), torch.ones(1, tokens, **whole)
    text, noise = torch.zeros(1, tokens, config.text.embed_dim, **real), torch.zeros(1, config.noise, **real)
    codes = torch.zeros(1, config.latent.grid, config.latent.grid, **whole)
    inputs = {
        "text_encoder": (ids, mask),
        "latent": (text, mask, noise),
        "generator": (codes, text, mask, noise),
    }
    found = {}
    for name, given in inputs.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            getattr(stages, name)(*given)
        found[name] = counter.get_total_flops() // FLOPS_PER_MAC
    return found
