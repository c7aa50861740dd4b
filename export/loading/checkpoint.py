"""The stages of a checkpoint that `tv-train` wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from textual_vision.export.inference_network.network import inference_latent_network
from textual_vision.export.model.batch import BATCH, STEP, TOKENS
from textual_vision.export.model.stage import Margins, Stage, StagedModel, tensor
from textual_vision.runtime.files import sha256_of_file
from textual_vision.runtime.generation.specs import NoiseSpec
from textual_vision.runtime.manifest import ImageSpec, StageSpec, TextSpec
from textual_vision.training.checkpoint import Checkpoint
from textual_vision.training.models.text_to_image import LatentStage, TextToImageModel, stages_from_model


def model_from_checkpoint(checkpoint: Checkpoint) -> StagedModel:
    """Return the three stages of a trained checkpoint: text encoder, latent network, generator."""
    config, model = checkpoint.config.model, checkpoint.model
    modules, digest = stages_from_model(model), _digest(checkpoint.folder)
    grid, size = config.latent.grid, config.image_size
    groups, width = config.text.groups, config.text.embed_dim
    words = (
        tensor("text", "float32", BATCH, TOKENS, width),
        tensor("attention_mask", "int64", BATCH, TOKENS),
    )
    noise, codes = (
        tensor("noise", "float32", BATCH, config.noise),
        tensor("codes", "int64", BATCH, grid, grid),
    )
    specs = (
        StageSpec(
            name="text_encoder",
            inputs=(tensor("input_ids", "int64", BATCH, TOKENS), words[1]),
            outputs=(
                tensor("text_codes", "int64", BATCH, TOKENS, groups),
                words[0],
                tensor("attention", "float32", BATCH, TOKENS),
            ),
        ),
        StageSpec(name="latent", inputs=(*words, noise), outputs=(codes,)),
        StageSpec(
            name="generator",
            inputs=(codes, *words, noise),
            outputs=(tensor("image", "uint8", BATCH, size, size, 3),),
        ),
    )
    margins = {"text_encoder": _text_margins(model), "latent": _latent_margins(model)}
    inference_modules = {
        "latent": lambda: inference_latent_network(LatentStage(model.latent, model.sampler, model.codebook))
    }
    return StagedModel(
        name=checkpoint.config.name,
        stages=tuple(
            Stage(
                spec=spec,
                module=getattr(modules, spec.name).eval(),
                margins=margins.get(spec.name),
                inference_module=inference_modules.get(spec.name),
                blocks=config.latent.steps * config.latent.blocks if spec.name == "latent" else 1,
            )
            for spec in specs
        ),
        image=ImageSpec(height=size, width=size),
        noise=(NoiseSpec(shape=(config.noise,)),),
        text=_text_spec(checkpoint),
        tokenizer=checkpoint.tokenizer.to_str(pretty=False).encode(),
        license="Apache-2.0",
        notice=checkpoint.notice,
        digest=digest,
        fingerprint=digest,
        card={"corpus": checkpoint.config.corpus, "parameters": _parameters(model)},
        tables={"text_codes": config.text.codebook_size, "codes": config.codebook.codebook_size},
    )


def _text_spec(checkpoint: Checkpoint) -> TextSpec:
    config, tokenizer = checkpoint.config.model.text, checkpoint.tokenizer
    return TextSpec(
        tokenizer="tokenizer.json",
        max_tokens=config.max_tokens,
        pad_id=tokenizer.token_to_id("[PAD]") or 0,
        unknown_id=tokenizer.token_to_id("[UNK]") or 0,
    )


def _text_margins(model: TextToImageModel) -> Margins:
    encoder = model.text_encoder

    @torch.no_grad()
    def margins(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        states = encoder.encoder(inputs["input_ids"], inputs["attention_mask"])
        nearest = encoder.quantizer.distances(states).topk(2, dim=3, largest=False).values
        squares = states.unflatten(2, (encoder.quantizer.groups, -1)).square().sum(3)
        return {"text_codes": (nearest[..., 1] - nearest[..., 0]) / squares.clamp_min(1e-12)}

    return margins


def _latent_margins(model: TextToImageModel) -> Margins:
    config, schedule = model.config.latent, model.latent.schedule
    counts = torch.tensor([b - a for a, b in map(schedule.codes_of_step, range(config.steps))])
    by_rank = torch.repeat_interleave(torch.arange(config.steps), counts)
    steps = by_rank[schedule.rank].unflatten(0, (config.grid, config.grid))

    @torch.no_grad()
    def margins(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        words, noise = (inputs["text"], inputs["attention_mask"]), inputs["noise"]
        latents = F.normalize(model.sampler(*words, noise, model.codebook).latents, dim=-1)
        best = model.codebook.similarity(latents).topk(2, dim=-1).values
        return {"codes": best[..., 0] - best[..., 1], f"codes{STEP}": steps.expand(best.shape[:-1])}

    return margins


def _parameters(model: TextToImageModel) -> dict[str, int]:
    """Return the number of parameters of each stage; a checkpoint's other parameters are for training."""
    parts = {"text_encoder": model.text_encoder, "latent": model.latent, "generator": model.generator}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def _digest(folder: Path) -> str:
    """Return a SHA-256 over the files that determine the generated pictures."""
    files = ("config.json", "model.safetensors", "tokenizer.json")
    return hashlib.sha256("".join(sha256_of_file(folder / name) for name in files).encode()).hexdigest()
