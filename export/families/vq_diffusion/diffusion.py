"""VQ-Diffusion's process in discrete space: a code stays, becomes any other code, or becomes a mask.

Gu et al., "Vector quantized diffusion model for text-to-image synthesis", CVPR 2022, equations 5 to 11;
Tang et al., "Improved vector quantized diffusion models", 2022, for the guidance. All probabilities are
logarithms, and at least e⁻⁷⁰. The last class is the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.families.clip.text import ClipText
from textual_vision.export.families.vq_diffusion.transformer import CodeTransformer
from textual_vision.export.families.vq_gan import VqGanDecoder
from textual_vision.runtime.errors import UsageError

LEAST = -70.0
LOG_ZERO = float(np.log(np.float32(1e-30)))  # of a class that a code is not
FLOOR = -1e4  # in the place of the logarithm of 0
SINGLE, CUMULATIVE = (
    ("log_at", "log_bt", "log_ct", "log_1_min_ct"),
    (
        "log_cumprod_at",
        "log_cumprod_bt",
        "log_cumprod_ct",
        "log_1_min_cumprod_ct",
    ),
)


@dataclass(frozen=True, kw_only=True)
class DiffusionSchedule:
    """Timesteps from the last to 0; `stride` 1 visits all, a larger one every `stride`-th."""

    timesteps: int
    stride: int = 1

    def tables(self) -> dict[str, tuple[float, ...]]:
        """Value of `timestep` and `posterior_timestep` at each step."""
        if not 1 <= self.stride <= self.timesteps:
            problem = f"a stride of {self.stride} over {self.timesteps} timesteps"
            raise UsageError(problem, f"give 1 to {self.timesteps}")
        visited = list(range(self.timesteps - 1, -1, -self.stride))
        if visited[-1] != 0:
            visited.append(0)
        skipped = self.stride - 1
        posterior = [step - skipped if step > skipped else step for step in visited]
        return {
            "timestep": tuple(map(float, visited)),
            "posterior_timestep": tuple(map(float, posterior)),
        }


class DiffusionText(nn.Module):
    """The condition float32 (batch, tokens, width): the text tower's features, each of length 1."""

    def __init__(self, condition_emb: ClipText, width: int) -> None:
        super().__init__()
        self.condition_emb = condition_emb
        self.copies = width // condition_emb.ln_final.weight.shape[0]

    def forward(self, input_ids: Tensor) -> Tensor:
        """The condition."""
        tokens, _ = self.condition_emb(input_ids)
        repeated = torch.cat([tokens] * self.copies, dim=2)
        return repeated / repeated.square().sum(2, keepdim=True).sqrt()


class Posterior(nn.Module):
    """The distribution of codes one timestep earlier, from the prediction of the codes without noise."""

    def __init__(self, codes: int, timesteps: int) -> None:
        super().__init__()
        self.codes, self.timesteps = codes, timesteps
        for names, size in ((SINGLE, timesteps), (CUMULATIVE, timesteps + 1)):
            for name in names:
                self.register_buffer(name, torch.zeros(size))

    def forward(self, log_start: Tensor, codes: Tensor, timestep: Tensor) -> Tensor:
        """Log probabilities (batch, codes + 1, positions).

        `log_start` (batch, codes, positions) are those of the codes without noise; codes int64 (batch,
        positions), timestep int64 (batch,).
        """
        masked = (codes == self.codes)[:, None, :]
        chosen = F.one_hot(codes, self.codes + 1).transpose(1, 2)[:, :-1].to(log_start.dtype)
        log_chosen = (1 - chosen) * LOG_ZERO
        stay, other, mask, _ = (self._at(name, timestep) for name in CUMULATIVE)
        to_now = torch.where(masked, mask, log_add(log_chosen + stay, other))
        stay, other, mask, _ = (self._at(name, timestep) for name in SINGLE)
        one_step = torch.where(masked, mask, log_add(log_chosen + stay, other))
        zero = torch.zeros_like(log_start[:, :1])
        last = torch.where(masked, zero, zero + LOG_ZERO)
        ratio = torch.cat((log_start - to_now, zero + LOG_ZERO), dim=1)
        total = ratio.logsumexp(1, keepdim=True)
        earlier = self.noised(ratio - total, (timestep + self.timesteps) % (self.timesteps + 1))
        found = earlier + torch.cat((one_step, last), dim=1) + total
        clamped: Tensor = found.clamp(LEAST, 0.0)
        return clamped

    def noised(self, log_start: Tensor, timestep: Tensor) -> Tensor:
        """Log probabilities of the classes at a timestep, from those (batch, codes + 1, …) without noise."""
        stay, other, mask, not_mask = (self._at(name, timestep) for name in CUMULATIVE)
        codes = log_add(log_start[:, :-1] + stay, other)
        return torch.cat((codes, log_add(log_start[:, -1:] + not_mask, mask)), dim=1)

    def _at(self, name: str, timestep: Tensor) -> Tensor:
        table: Tensor = getattr(self, name)
        values: Tensor = table.clamp(min=FLOOR)[timestep]
        return values[:, None, None]


def log_add(first: Tensor, second: Tensor) -> Tensor:
    """log(eᵃ + eᵇ)."""
    largest = torch.maximum(first, second)
    return largest + ((first - largest).exp() + (second - largest).exp()).log()


def truncated(log_probability: Tensor, rate: Tensor) -> Tensor:
    """Only the most likely classes of axis 1, until their probabilities reach `rate`; the others at e⁻⁷⁰."""
    ordered, _ = log_probability.topk(log_probability.shape[1], dim=1)
    reached = ordered.exp().cumsum(1) < rate[:, None, None]
    kept = torch.cat((torch.ones_like(reached[:, :1]), reached[:, :-1]), dim=1)
    least = torch.where(kept, ordered, torch.zeros_like(ordered)).amin(1, keepdim=True)
    return torch.where(log_probability >= least, log_probability, torch.full_like(log_probability, LEAST))


class DiffusionStep(nn.Module):
    """One timestep: guided and truncated prediction, posterior, a draw by Gumbel noise."""

    unconditional: Tensor

    def __init__(self, transformer: CodeTransformer, posterior: Posterior, unconditional: Tensor) -> None:
        super().__init__()
        self.transformer, self.posterior = transformer, posterior
        self.register_buffer("unconditional", unconditional.detach().to(torch.float32).clone())

    def predicted(self, codes: Tensor, condition: Tensor, timestep: Tensor, guidance_scale: Tensor) -> Tensor:
        """Guided log probabilities (batch, codes, positions) of the codes without noise."""
        rows = codes.shape[0]
        both = torch.cat((condition, self.unconditional.expand(rows, -1, -1)))
        logits = self.transformer(torch.cat((codes, codes)), both, torch.cat((timestep, timestep)))
        found = logits.log_softmax(1).clamp(LEAST, 0.0)
        with_prompt, without = found[:rows], found[rows:]
        guided = without + guidance_scale[:, None, None] * (with_prompt - without)
        scaled: Tensor = guided - guided.logsumexp(1, keepdim=True)
        return scaled.clamp(LEAST, 0.0)

    def forward(
        self,
        codes: Tensor,
        condition: Tensor,
        timestep: Tensor,
        posterior_timestep: Tensor,
        guidance_scale: Tensor,
        truncation_rate: Tensor,
        gumbel: Tensor,
    ) -> Tensor:
        """Codes int64 (batch, h, w), one timestep earlier; `gumbel` (batch, codes + 1, h × w)."""
        start = self.predicted(codes, condition, timestep, guidance_scale)
        start = truncated(start, truncation_rate)
        log_probability = self.posterior(start, codes.flatten(1), posterior_timestep)
        drawn: Tensor = (log_probability + gumbel).argmax(1).unflatten(1, codes.shape[1:])
        return drawn


class CodeDecoder(nn.Module):
    """The picture of codes; `rows` maps the codes to rows of the codebook, of which they are a selection."""

    rows: Tensor

    def __init__(self, decoder: VqGanDecoder, rows: Tensor) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("rows", rows)

    def forward(self, codes: Tensor) -> Tensor:
        """Picture float32 (batch, colors, H, W), about in [-1, 1]; a mask counts as the last code."""
        picture: Tensor = self.decoder(self.rows[codes.clamp(max=self.rows.shape[0] - 1)])
        return picture
