"""min-dalle's sampler: each step draws the code of one position, among those of the largest guided logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from textual_vision.export.families.min_dalle.decoder import BartDecoder
from textual_vision.export.families.min_dalle.encoder import PromptEncoder
from textual_vision.export.families.vq_gan import VqGanDecoder

HIDDEN_LOGIT = -1e4  # of codes that are not among the most likely


class SamplerStep(nn.Module):
    """One code: guidance between the prompt and an empty one, a draw among the `top_k` most likely codes."""

    empty_cache: Tensor
    empty_mask: Tensor

    def __init__(
        self, decoder: BartDecoder, prompts: PromptEncoder, *, empty_ids: Tensor, codes: int, top_k: int
    ) -> None:
        super().__init__()
        self.decoder, self.codes, self.top_k = decoder, codes, min(top_k, codes)
        with torch.no_grad():
            cache, mask = prompts(empty_ids)
        self.register_buffer("empty_cache", cache)
        self.register_buffer("empty_mask", mask)

    def forward(
        self,
        code: Tensor,
        cache: Tensor,
        codes: Tensor,
        position: Tensor,
        prompt_cache: Tensor,
        prompt_mask: Tensor,
        temperature: Tensor,
        guidance_scale: Tensor,
        gumbel: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The drawn code int64 (batch,), the new cache, and the codes int64 (batch, h, w) with it.

        `cache` float32 (batch, 2, layers, 2, positions, width) holds the empty prompt's part first;
        `gumbel` (batch, codes) is noise.
        """
        rows = code.shape[0]
        logits, new = self.decoder(
            torch.cat((code, code)),
            torch.cat((position, position)),
            torch.cat((cache[:, 0], cache[:, 1])),
            torch.cat((self.empty_cache.expand(rows, -1, -1, -1, -1), prompt_cache)),
            torch.cat((self.empty_mask.expand(rows, -1), prompt_mask)),
        )
        logits, scale = logits[:, : self.codes], guidance_scale[:, None]
        guided = logits[:rows] * (1 - scale) + logits[rows:] * scale
        drawn = self.draw(guided, temperature, gumbel)
        place = torch.arange(codes.shape[1] * codes.shape[2]).unflatten(0, codes.shape[1:])
        filled = torch.where(place == position[:, None, None], drawn[:, None, None], codes)
        return drawn, torch.stack((new[:rows], new[rows:]), dim=1), filled

    def draw(self, logits: Tensor, temperature: Tensor, gumbel: Tensor) -> Tensor:
        """Code int64 (batch,): the largest of logit by temperature + Gumbel noise, of the `top_k` logits."""
        best, _ = logits.topk(self.top_k, dim=1)
        scores = (logits - best[:, :1]) / temperature[:, None]
        kept = torch.where(logits >= best[:, -1:], scores, torch.full_like(scores, HIDDEN_LOGIT))
        return (kept + gumbel).argmax(1)


class Detokenizer(nn.Module):
    """Picture float32 (batch, 3, H, W), about in [0, 1], from codes int64 (batch, h, w)."""

    def __init__(self, decoder: VqGanDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, codes: Tensor) -> Tensor:
        """The picture."""
        picture: Tensor = self.decoder(codes)
        return picture
