"""Conditions between the fields of a config."""

from __future__ import annotations

from textual_vision.runtime.errors import UsageError
from textual_vision.training.config import ModelConfig, TrainConfig

CORPORA = ("emoji", "coco", "folder", "shards")
PRECISIONS = ("auto", "float32", "bfloat16")
DISCRIMINATOR_INPUTS = ("features", "pixels")
MAX_RETRIEVABLE_CODES = 2048  # the index stores codes in half precision, exact up to this number
DISCRIMINATOR_GRID = 4  # rows and columns at which the pixel discriminator joins picture and text

Rules = list[tuple[bool, str]]  # a condition, and the message where it does not hold


def check_consistent(config: TrainConfig) -> None:
    """Raise UsageError when a value is not allowed or two fields contradict each other."""
    for holds, message in [*_choices(config), *_sizes(config.model), *_methods(config)]:
        if not holds:
            raise UsageError(f"config {config.name!r}: {message}", "change the fields that are named")


def _choices(config: TrainConfig) -> Rules:
    found = [
        ("corpus", config.corpus, CORPORA),
        ("precision", config.precision, PRECISIONS),
        ("model.discriminator.input", config.model.discriminator.input, DISCRIMINATOR_INPUTS),
    ]
    return [
        (value in allowed, f"{name} is {value!r}; choose one of: {', '.join(allowed)}")
        for name, value, allowed in found
    ]


def _sizes(model: ModelConfig) -> Rules:
    return [*_grid_sizes(model), *_widths(model), *_retrieval_sizes(model), *_discriminator_sizes(model)]


def _grid_sizes(model: ModelConfig) -> Rules:
    upscale = 2 ** (len(model.generator.channels) - 1)
    latent = model.latent
    side = latent.grid // max(1, latent.patch)
    return [
        (
            latent.grid * upscale == model.image_size,
            f"model.latent.grid {latent.grid} x {upscale} (len(model.generator.channels) - 1 "
            f"doublings) is not model.image_size {model.image_size}",
        ),
        (
            latent.grid * 2 ** len(model.codebook.channels) == model.image_size,
            f"model.codebook.channels has {len(model.codebook.channels)} halvings: {model.image_size} "
            f"pixels do not become model.latent.grid {latent.grid}",
        ),
        (
            latent.patch >= 1 and latent.grid % latent.patch == 0,
            f"model.latent.grid {latent.grid} is not made of patches of {latent.patch} x {latent.patch}",
        ),
        (
            latent.steps >= 1 and side % 2 ** ((latent.steps - latent.split_doublings) // 2) == 0,
            f"model.latent.steps is {latent.steps}: a grid of {side} patches can't be halved that often",
        ),
        (
            latent.split_doublings >= 0 and 2 * latent.split_doublings < latent.steps,
            f"model.latent.split_doublings {latent.split_doublings} is more than the doublings in "
            f"model.latent.steps {latent.steps}",
        ),
    ]


def _widths(model: ModelConfig) -> Rules:
    text, latent = model.text, model.latent
    return [
        (
            text.hidden % text.groups == 0,
            f"model.text.hidden {text.hidden} is not a multiple of model.text.groups {text.groups}",
        ),
        (
            text.heads > 0 and text.hidden % text.heads == 0,
            f"model.text.hidden {text.hidden} is not a multiple of model.text.heads {text.heads}",
        ),
        (
            latent.heads > 0 and latent.embed_dim % latent.heads == 0,
            f"model.latent.embed_dim {latent.embed_dim} is not a multiple of model.latent.heads "
            f"{latent.heads}",
        ),
    ]


def _retrieval_sizes(model: ModelConfig) -> Rules:
    retrieval, text = model.retrieval, model.text
    entries = retrieval.entries
    if entries == 0:
        return []
    return [
        (entries is None or entries > 0, f"model.retrieval.entries is {entries}, less than 0"),
        (
            retrieval.count >= 1 and (entries is None or retrieval.count <= entries),
            f"model.retrieval.count {retrieval.count} is not from 1 to model.retrieval.entries {entries}",
        ),
        (
            1 <= retrieval.dim <= text.embed_dim,
            f"model.retrieval.dim {retrieval.dim} is not from 1 to model.text.embed_dim {text.embed_dim}",
        ),
        (
            model.codebook.codebook_size <= MAX_RETRIEVABLE_CODES,
            f"model.codebook.codebook_size {model.codebook.codebook_size} is more than the "
            f"{MAX_RETRIEVABLE_CODES} that a retrieval index can store; set model.retrieval.entries to 0",
        ),
    ]


def _discriminator_sizes(model: ModelConfig) -> Rules:
    config = model.discriminator
    halvings = len(config.channels)
    if config.input == "features":
        return [(halvings == 1, f"model.discriminator.channels has {halvings} entries; 'features' takes one")]
    return [
        (
            model.image_size == DISCRIMINATOR_GRID * 2**halvings,
            f"model.discriminator.channels has {halvings} halvings: {model.image_size} pixels do not become "
            f"{DISCRIMINATOR_GRID}",
        )
    ]


def _methods(config: TrainConfig) -> Rules:
    steps, sampling = config.model.latent.steps, config.sampling
    candidates = config.interpolation_candidates
    strengths = (sampling.copy_strength, sampling.copy_strength_composition, sampling.nearest_bonus)
    return [
        (
            1 <= sampling.stochastic_steps <= steps,
            f"sampling.stochastic_steps {sampling.stochastic_steps} is not from 1 to "
            f"model.latent.steps {steps}",
        ),
        (
            min(strengths) >= 0,
            "sampling.copy_strength, sampling.copy_strength_composition and sampling.nearest_bonus are "
            f"{', '.join(map(str, strengths))}; none may be less than 0",
        ),
        (
            sampling.guidance_scale == 1 or config.losses.text_dropout > 0,
            f"sampling.guidance_scale {sampling.guidance_scale} needs a network that was trained without "
            "text too, but losses.text_dropout is 0",
        ),
        (
            len(candidates) > 0 and all(0 <= share <= 1 for share in candidates),
            f"interpolation_candidates is {list(candidates)}; give at least one number, each from 0 to 1",
        ),
    ]
