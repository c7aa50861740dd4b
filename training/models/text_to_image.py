"""The stages as one model, and as the three networks that are exported."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from textual_vision.runtime.errors import UsageError
from textual_vision.training.config import ModelConfig, SamplingConfig
from textual_vision.training.models.blocks import pixels_from_signed
from textual_vision.training.models.codebook import Codebook
from textual_vision.training.models.generator import Generator
from textual_vision.training.models.image_encoder import ImageEncoder, Posterior
from textual_vision.training.models.latent.network import LatentNetwork
from textual_vision.training.models.latent.sampler import SampledCodes, Sampler
from textual_vision.training.models.text_encoder import TextEncoder


@dataclass(frozen=True, kw_only=True)
class GeneratedImages:
    """The outputs of the stages for one batch."""

    text_codes: Tensor  # int64 (B, T, G)
    attention: Tensor  # float32 (B, T)
    codes: Tensor  # int64 (B, h, w)
    image: Tensor  # uint8 (B, H, W, 3)


class TextToImageModel(nn.Module):
    """All networks of a model but the discriminator."""

    def __init__(self, config: ModelConfig, sampling: SamplingConfig) -> None:
        """Fresh weights; UsageError when the number of retrieval entries is left to the corpus."""
        super().__init__()
        if config.retrieval.entries is None:
            raise UsageError(
                "model.retrieval.entries is null: the model has an entry for each picture of a corpus",
                "give the number of pictures",
            )
        self.config = config
        self.text_encoder = TextEncoder(config.text)
        self.latent = LatentNetwork(config, sampling)
        self.sampler = Sampler(self.latent, config, sampling)
        self.codebook = Codebook(config.codebook)
        self.generator = Generator(config)
        self.image_encoder = ImageEncoder(config)
        self.posterior = Posterior(config)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor, noise: Tensor) -> GeneratedImages:
        """ids, mask int64 (B, T), noise float32 (B, Z) -> the outputs of the exported pipeline."""
        stages = stages_from_model(self)
        text_codes, text, attention = stages.text_encoder(input_ids, attention_mask)
        codes = stages.latent(text, attention_mask, noise)
        image = stages.generator(codes, text, attention_mask, noise)
        return GeneratedImages(text_codes=text_codes, attention=attention, codes=codes, image=image)


class LatentStage(nn.Module):
    """text, attention_mask, noise -> codes int64 (B, h, w)."""

    def __init__(self, latent: LatentNetwork, sampler: Sampler, codebook: Codebook) -> None:
        super().__init__()
        self.latent = latent  # whose weights the sampler does not hold
        self.sampler = sampler
        self.codebook = codebook

    def forward(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Tensor:
        """text (B, T, C), attention_mask int64 (B, T), noise (B, Z) -> codes int64 (B, h, w)."""
        sampled: SampledCodes = self.sampler(text, attention_mask, noise, self.codebook)
        return sampled.codes


class GeneratorStage(nn.Module):
    """codes, text, attention_mask, noise -> image uint8 (B, H, W, 3)."""

    def __init__(self, generator: Generator, codebook: Codebook) -> None:
        super().__init__()
        self.generator = generator
        self.codebook = codebook

    def forward(self, codes: Tensor, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Tensor:
        """codes int64 (B, h, w), text (B, T, C), mask (B, T), noise (B, Z) -> uint8 (B, H, W, 3)."""
        rows = self.codebook.lookup(codes)
        return pixels_from_signed(self.generator(rows, text, attention_mask, noise))


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The three networks with the signatures of the exported graphs, in the order in which they run."""

    text_encoder: nn.Module
    latent: nn.Module
    generator: nn.Module


def stages_from_model(model: TextToImageModel) -> Stages:
    """Views of the model's own modules: no weight is copied."""
    return Stages(
        text_encoder=model.text_encoder,
        latent=LatentStage(model.latent, model.sampler, model.codebook),
        generator=GeneratorStage(model.generator, model.codebook),
    )
