"""Pictures of a model: generated from prompts and seeds, or reconstructed from pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from textual_vision.runtime.noise import noise_from_seed
from textual_vision.training.data.batches import signed_from_pixels
from textual_vision.training.models.caption_encoder import ids_from_captions
from textual_vision.training.models.text_to_image import TextToImageModel, stages_from_model

CHUNK = 32  # pictures at once

Pictures = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class EvaluationImages:
    """Generated pictures uint8 (N, S, S, 3) and their codes int64 (N, h, w)."""

    pictures: Pictures
    codes: torch.Tensor


@torch.no_grad()
def generate_images(
    model: TextToImageModel, tokenizer: Tokenizer, prompts: Sequence[str], seeds: Sequence[int]
) -> EvaluationImages:
    """A picture for each prompt with the noise of its seed, as the runtime generates it."""
    device = next(model.parameters()).device
    pictures, codes = [], []
    for start in range(0, len(prompts), CHUNK):
        ids, mask = ids_from_captions(tokenizer, prompts[start : start + CHUNK])
        generated = model.generate(
            ids.to(device), mask.to(device), noise_rows(model, seeds, start).to(device)
        )
        pictures.append(generated.image.cpu().numpy())
        codes.append(generated.codes.cpu())
    return EvaluationImages(pictures=np.concatenate(pictures), codes=torch.cat(codes))


@torch.no_grad()
def reconstruct(
    model: TextToImageModel, tokenizer: Tokenizer, pictures: Pictures, captions: Sequence[str]
) -> EvaluationImages:
    """Each picture reconstructed from its codes, with its caption and the noise of seed i."""
    device = next(model.parameters()).device
    stages = stages_from_model(model)
    found, codes = [], []
    for start in range(0, len(pictures), CHUNK):
        ids, mask = ids_from_captions(tokenizer, captions[start : start + CHUNK])
        _, text, _ = stages.text_encoder(ids.to(device), mask.to(device))
        latents = model.image_encoder(signed_from_pixels(pictures[start : start + CHUNK]).to(device))
        part = model.codebook.nearest(latents)
        noise = noise_rows(model, range(len(pictures)), start)
        image = stages.generator(part, text, mask.to(device), noise.to(device))
        found.append(image.cpu().numpy())
        codes.append(part.cpu())
    return EvaluationImages(pictures=np.concatenate(found), codes=torch.cat(codes))


def noise_rows(model: TextToImageModel, seeds: Sequence[int], start: int) -> torch.Tensor:
    """The first noise of up to CHUNK seeds from `start` on, (B, Z)."""
    rows = [noise_from_seed(seed, 1, model.config.noise)[0] for seed in seeds[start : start + CHUNK]]
    return torch.from_numpy(np.stack(rows))


def psnr_of_pictures(a: Pictures, b: Pictures) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB of each pair, uint8 (N, S, S, 3) both -> (N,)."""
    error = np.array([np.square(x.astype(np.float64) - y).mean() for x, y in zip(a, b, strict=True)])
    ratio: NDArray[np.float64] = 10 * np.log10(255.0**2 / np.maximum(error, 1e-3))
    return ratio
