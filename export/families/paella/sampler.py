"""Paella's sampler: every step draws all codes anew, then replaces a falling share by the first, random ones.

Rampas, Pernias, Aubreville, "A novel sampling scheme for text- and image-conditional image synthesis in
quantized latent spaces", 2022, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.families.paella.network import PaellaNetwork
from textual_vision.export.families.paella.t5_encoder import T5Encoder
from textual_vision.runtime.errors import UsageError

NO_RENOISE = 0.0  # uniforms are above it
END_ID = 1  # the only token of an empty prompt
STEPS = 12  # as published


@dataclass(frozen=True, kw_only=True)
class PaellaSchedule:
    """`steps` from time 1 to 0, the first `renoise_steps` of them with renoising.

    The temperature falls linearly from `temperatures[0]` to `temperatures[1]`.
    """

    steps: int = STEPS
    renoise_steps: int = STEPS - 1
    temperatures: tuple[float, float] = (1.0, 0.2)

    def tables(self) -> dict[str, tuple[float, ...]]:
        """Value of `time`, `next_time` and `temperature` at each step."""
        if self.steps < 1 or not 0 <= self.renoise_steps <= self.steps:
            problem = f"{self.steps} steps, {self.renoise_steps} of them with renoising"
            raise UsageError(problem, "give at least one step, and not more steps with renoising than steps")
        times = np.linspace(1.0, 0.0, self.steps + 1, dtype=np.float32)
        kept = [step < self.renoise_steps for step in range(self.steps)]
        return {
            "time": tuple(map(float, times[:-1])),
            "next_time": tuple(
                float(time) if one else NO_RENOISE for time, one in zip(times[1:], kept, strict=True)
            ),
            "temperature": tuple(map(float, np.linspace(*self.temperatures, self.steps, dtype=np.float32))),
        }


class PaellaText(nn.Module):
    """The condition float32 (batch, tokens, width) of a prompt's bytes."""

    def __init__(self, encoder: T5Encoder, network: PaellaNetwork) -> None:
        super().__init__()
        self.encoder, self.network = encoder, network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The condition."""
        return self.network.condition(self.encoder(input_ids, attention_mask))


class PaellaStart(nn.Module):
    """The first codes int64 (batch, h, w), uniformly random, from uniforms in (0, 1)."""

    def __init__(self, codes: int) -> None:
        super().__init__()
        self.codes = codes

    def forward(self, uniforms: Tensor) -> Tensor:
        """The codes."""
        return (uniforms * self.codes).to(torch.int64).clamp(max=self.codes - 1)


class PaellaStep(nn.Module):
    """One step of the sampler: guided logits, a random choice by them, renoising."""

    unconditional: Tensor

    def __init__(self, encoder: T5Encoder, network: PaellaNetwork) -> None:
        super().__init__()
        self.network = network
        end = torch.tensor([[END_ID]])
        with torch.no_grad():
            empty = network.condition(encoder(end, torch.ones_like(end)))
        self.register_buffer("unconditional", empty.detach().clone())

    def guided(self, codes: Tensor, time: Tensor, condition: Tensor, mask: Tensor, scale: Tensor) -> Tensor:
        """Logits of the prompt times `scale`, plus those of the empty prompt times 1 − `scale`."""
        rows, tokens = mask.shape
        empty = F.pad(self.unconditional, (0, 0, 0, tokens - 1)).expand(rows, -1, -1)
        only_end = (torch.arange(tokens) == 0).to(torch.int64).expand(rows, -1)
        logits = self.network(
            torch.cat((codes, codes)),
            torch.cat((time, time)),
            torch.cat((condition, empty)),
            torch.cat((mask, only_end)),
        )
        with_prompt, without = logits[:rows], logits[rows:]
        factor = scale[:, None, None, None]
        guided: Tensor = with_prompt * factor + without * (1 - factor)
        return guided

    def forward(
        self,
        codes: Tensor,
        condition: Tensor,
        attention_mask: Tensor,
        first_codes: Tensor,
        time: Tensor,
        next_time: Tensor,
        temperature: Tensor,
        guidance_scale: Tensor,
        gumbel: Tensor,
        uniforms: Tensor,
    ) -> Tensor:
        """Codes int64 (batch, h, w); `gumbel` (batch, codes, h, w) and `uniforms` (batch, h, w) are noise.

        The largest of log probability + Gumbel noise is a draw from the distribution.
        """
        logits = self.guided(codes, time, condition, attention_mask, guidance_scale)
        drawn = (logits / temperature[:, None, None, None] + gumbel).argmax(1)
        return torch.where(uniforms <= next_time[:, None, None], first_codes, drawn)
