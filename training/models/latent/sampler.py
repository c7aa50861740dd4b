"""The sampler of the latent network: steps, classifier-free guidance and the noise of the codes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.config import ModelConfig, SamplingConfig
from textual_vision.training.models.codebook import Codebook
from textual_vision.training.models.latent.network import Cache, LatentNetwork, StepContext, StepState
from textual_vision.training.models.latent.retrieved_pictures import (
    RetrievedPictures,
    code_features,
    copy_control,
)
from textual_vision.training.models.latent.sign_hash import hashed_signs

Choose = Callable[[Tensor, slice], Tensor]  # raw latents (B, n, D) of a turn's ranks -> codebook vectors


@dataclass(frozen=True, kw_only=True)
class SamplerInputs:
    """The conditions of all steps of a batch."""

    conditional: StepContext
    guided: StepContext | None  # of the prompts and their unconditional copies; None without guidance
    code_noise: Tensor  # (B, n, D): added to raw latents in the stochastic steps, by rank


@dataclass(frozen=True, kw_only=True)
class SampledCodes:
    """Sampled codes, and the raw latents that they are nearest to."""

    codes: Tensor  # int64 (B, h, w)
    latents: Tensor  # float32 (B, h, w, D)


@dataclass(frozen=True, kw_only=True)
class ContinuedCodes:
    """Codebook vectors of given and sampled codes, and the raw latents of the first sampled step."""

    vectors: Tensor  # float32 (B, D, h, w)
    first: Tensor | None  # (B, n, D); None if all codes were given


class Sampler(nn.Module):
    """Chooses codes step by step; the first `stochastic_steps` use guidance and noise."""

    signs: Tensor
    mixing: Tensor

    def __init__(self, network: LatentNetwork, model: ModelConfig, sampling: SamplingConfig) -> None:
        super().__init__()
        self.sampling = sampling
        self._network = (network,)  # a tuple hides its parameters, which are not the sampler's
        code_width = model.codebook.codebook_dim
        signs = hashed_signs("position", model.latent.grid**2, model.noise)
        self.register_buffer("signs", signs, persistent=False)
        mixing = hashed_signs("latent", model.noise, code_width) / model.noise**0.5
        self.register_buffer("mixing", mixing, persistent=False)

    @property
    def network(self) -> LatentNetwork:
        """The network that is sampled from."""
        return self._network[0]

    def forward(self, text: Tensor, attention_mask: Tensor, noise: Tensor, book: Codebook) -> SampledCodes:
        """Return the codes of text (B, T, C), attention_mask (B, T) and noise (B, Z)."""
        codes: list[Tensor] = []
        latents: list[Tensor] = []

        def choose(raw: Tensor, turn: slice) -> Tensor:
            codes.append(book.nearest(raw))
            latents.append(raw)
            return F.embedding(codes[-1], book.rows)

        network = self.network
        retrieved = network.retrieve(text, attention_mask, noise, book)
        inputs = self.inputs(text, attention_mask, noise, retrieved)
        self._run_steps(inputs, choose, network.config.steps)
        shape, rank = (network.config.grid, network.config.grid), network.schedule.rank
        return SampledCodes(
            codes=torch.cat(codes, 1).index_select(1, rank).unflatten(1, shape),
            latents=torch.cat(latents, 1).index_select(1, rank).unflatten(1, shape),
        )

    def continue_codes(
        self, inputs: SamplerInputs, known: Tensor, book: Codebook, learned: int
    ) -> ContinuedCodes:
        """Return the codes `known` int64 (B, n) of the first steps, continued by sampled ones.

        Gradients pass the last `learned` steps. They pass a choice as if the raw latent at unit length were
        the nearest codebook vector (Bengio et al. 2013, straight-through): a loss on the picture can move
        codes that are chosen at once so that they agree, which the cross-entropy of each code cannot.
        """
        own = F.embedding(known, book.rows)
        chosen: list[Tensor] = []
        first: list[Tensor] = []

        def choose(raw: Tensor, turn: slice) -> Tensor:
            if turn.stop <= known.shape[1]:
                vectors = own[:, turn]
            else:
                raw = raw.float()
                first.append(raw)
                vectors = F.embedding(book.nearest(raw.detach()), book.rows)
                if raw.requires_grad:
                    unit = F.normalize(raw, dim=-1)
                    vectors = unit + (vectors - unit).detach()
            chosen.append(vectors)
            return vectors

        self._run_steps(inputs, choose, learned)
        grid, rank = self.network.config.grid, self.network.schedule.rank
        placed = torch.cat(chosen, 1)[:, rank].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        return ContinuedCodes(vectors=placed, first=first[0] if first else None)

    def inputs(
        self, text: Tensor, attention_mask: Tensor, noise: Tensor, retrieved: RetrievedPictures | None
    ) -> SamplerInputs:
        """Return the conditions of text (B, T, C), attention_mask (B, T) and noise (B, Z)."""
        network, code_noise = self.network, self.code_noise(noise)
        control = None if retrieved is None else copy_control(retrieved.is_composition, self.sampling)
        if self.sampling.guidance_scale == 1:
            conditional = network.context(text, attention_mask, noise, retrieved, control)
            return SamplerInputs(conditional=conditional, guided=None, code_noise=code_noise)
        # Attention to one word of zeros gives the same as attention to many.
        zeros, one_word = torch.zeros_like(text), torch.zeros_like(attention_mask)
        one_word[:, 0] = 1
        both = torch.cat([text, zeros]), torch.cat([attention_mask, one_word]), torch.cat([noise, noise])
        guided = network.context(*both, retrieved, control, copies=2)
        conditional = replace(
            guided,
            initial=conditional_half(guided.initial, 0),
            text_cache=[conditional_half(cache, 1) for cache in guided.text_cache],
            text_bias=conditional_half(guided.text_bias, 0),
            copies=1,
        )
        return SamplerInputs(conditional=conditional, guided=guided, code_noise=code_noise)

    def code_noise(self, noise: Tensor) -> Tensor:
        """Return about standard normals (B, n, D) for the codes of the stochastic steps, by rank.

        Each is a sum of all noise (B, Z) with its own signs: those of one picture look independent, and the
        model needs no other noise.
        """
        last = self.network.schedule.codes_of_step(self.sampling.stochastic_steps - 1)[1]
        return (noise.unsqueeze(1) * self.signs[:last]) @ self.mixing

    def _run_steps(self, inputs: SamplerInputs, choose: Choose, learned: int) -> None:
        """Let `choose` choose all codes, turn by turn; gradients pass the last `learned` steps."""
        network = self.network
        steps, turns = network.config.steps, network.schedule.turns
        state = network.start(inputs.conditional)
        for step in range(steps):
            stochastic = step < self.sampling.stochastic_steps
            context = inputs.guided if stochastic and inputs.guided is not None else inputs.conditional
            with contextlib.nullcontext() if step >= steps - learned else torch.no_grad():
                states, own = network.step(context, state, step)
                codes, chosen = state.codes, []
                for number, bounds in enumerate(turns[step]):
                    turn = slice(*bounds)
                    raw = network.turn(context, states, codes, step, number)
                    vectors = choose(self._sampled(inputs, raw, context, step, turn), turn)
                    features = code_features(vectors, context.retrieved_at(*bounds))
                    codes = torch.cat([codes, features], 1)
                    chosen.append(features.unflatten(1, (states.shape[1], -1)).flatten(2))
                content = torch.cat(chosen, 2)
                state = StepState(
                    codes=codes,
                    patches=torch.cat([state.patches, content], 1),
                    cache=self._extended(context, state.cache, own, content, step),
                )

    def _sampled(
        self, inputs: SamplerInputs, raw: Tensor, context: StepContext, step: int, turn: slice
    ) -> Tensor:
        """Return raw latents (B, n, D) with guidance and noise, where the step has them."""
        if context.copies == 2:
            conditional, unconditional = raw.unflatten(0, (2, -1)).unbind()
            raw = conditional
            if self.sampling.is_guided(step, self.network.config.steps):
                # `continue_codes` trains the conditional latents alone.
                unconditional = unconditional.detach()
                control = context.control
                scale = (
                    self.sampling.guidance_scale if control is None else control.guidance_scale.flatten(1, 2)
                )
                raw = unconditional + scale * (conditional - unconditional)
        if step < self.sampling.stochastic_steps:
            raw = raw + self.sampling.temperature * inputs.code_noise[:, turn]
        return raw

    def _extended(
        self, context: StepContext, cache: Cache | None, own: Cache, content: Tensor, step: int
    ) -> Cache | None:
        """Return the cache after a step; of the conditional copies alone after the last stochastic step."""
        if step + 1 == self.network.config.steps:
            return None
        cache = self.network.extend_cache(context, cache, own, content)
        if step + 1 == self.sampling.stochastic_steps and context.copies == 2:
            return [conditional_half(one, 1) for one in cache]
        return cache


def conditional_half(both: Tensor, axis: int) -> Tensor:
    """Return the first half of an axis that holds conditional and unconditional copies."""
    half: Tensor = both.unflatten(axis, (2, -1)).select(axis, 0)
    return half
