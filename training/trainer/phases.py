"""The phases of the schedule, each with one or more optimized objectives."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from textual_vision.training.config import PhaseConfig, TrainConfig
from textual_vision.training.data.batches import Batches, StepRandom, TrainingBatch
from textual_vision.training.models.discriminator import make_discriminator
from textual_vision.training.models.latent.blocks import CodeHead, LatentBlock
from textual_vision.training.models.latent.retrieval_index import RetrievalIndex, entries_of
from textual_vision.training.models.text_encoder import sentence_from_text
from textual_vision.training.models.text_to_image import TextToImageModel
from textual_vision.training.trainer.muon import Muon
from textual_vision.training.trainer.objectives.joint import DiscriminatorObjective, JointObjective
from textual_vision.training.trainer.objectives.latent import LatentObjective
from textual_vision.training.trainer.objectives.reconstruction import (
    CodebookObjective,
    EncoderObjective,
    PictureDistance,
    Terms,
)

WEIGHT_DECAY = 0.01
GRADIENT_NORM = 1.0
BETAS = (0.9, 0.99)
ADVERSARIAL_BETAS = (0.5, 0.99)
ADVERSARIAL_RAMP = 0.25  # of the joint phase, in which the adversarial weight rises to its full value
FILLED_AT_ONCE = 256  # pictures of the retrieval index
REPLACE_DEAD_EVERY = 50  # steps, in the first half of the codebook phase
FINAL_RATE = 0.05  # of the learning rate, at the end of the cosine
ENCODER_RATE = 0.5  # of the joint phase's rate, for the image encoder
MUON_RATE = 2.0  # of the phase's rate; updates are scaled to the size of AdamW's


class DivergedError(Exception):
    """A loss or gradient is not finite; the message names the terms."""


class Phase(Protocol):
    """One phase; `step` takes its batch, updates the weights and returns the loss terms."""

    name: str
    config: PhaseConfig

    def step(self, step: int) -> Terms:
        """Train one step; return the terms of its loss."""

    def state(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint of the run."""

    def load(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""


def lr_at(config: PhaseConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to FINAL_RATE of `learning_rate`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return config.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * fall)


class OptimizedObjective:
    """An objective with its optimizers, prepared by accelerate."""

    def __init__(
        self,
        accelerator: Accelerator,
        objective: nn.Module,
        betas: tuple[float, float],
        matrices: Sequence[Tensor] = (),
    ) -> None:
        """AdamW for all parameters but `matrices`, which Muon moves."""
        self.accelerator = accelerator
        by_muon = {id(p) for p in matrices}
        rest = [p for p in objective.parameters() if p.requires_grad and id(p) not in by_muon]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW([{"params": rest, "share": 1.0}], betas=betas, weight_decay=WEIGHT_DECAY)
        ]
        if matrices:
            group = {"params": list(matrices), "share": MUON_RATE}
            dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
            optimizers.append(Muon([group], weight_decay=WEIGHT_DECAY, dtype=dtype))
        self.objective, *self.optimizers = accelerator.prepare(objective, *optimizers)

    def optimizer_step(self, loss: Tensor, rate: float, terms: Terms) -> None:
        """Update the weights; raise DivergedError, before any update, when loss or gradient is not finite."""
        if on_any_process(self.accelerator, not bool(torch.isfinite(loss))):
            bad = [name for name, term in terms.items() if not torch.isfinite(term)]
            raise DivergedError(", ".join(bad) or "the loss")
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group in groups:
            group["lr"] = rate * group["share"]
        parameters = itertools.chain(*(group["params"] for group in groups))
        norm = self.accelerator.clip_grad_norm_(parameters, GRADIENT_NORM)
        # Gradients are the same on all processes.
        if norm is not None and not torch.isfinite(torch.as_tensor(norm)):
            raise DivergedError("the gradient")
        for optimizer in self.optimizers:
            optimizer.step()

    def state(self) -> list[dict[str, Any]]:
        """The states of the optimizers."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load(self, states: list[dict[str, Any]]) -> None:
        """Restore saved states."""
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def hidden_matrices(objective: nn.Module) -> list[Tensor]:
    """The matrices between hidden states of the latent network, which Muon optimizes.

    After 200 steps of the latent phase the cross-entropy was 4.83 nats with Muon, and 4.90 with AdamW alone.
    """
    blocks = (module for module in objective.modules() if isinstance(module, (LatentBlock, CodeHead)))
    return [
        p
        for block in blocks
        for name, p in block.named_parameters()
        if p.ndim == 2 and not name.startswith(("cell_embedding", "latent", "copy"))
    ]


class _SingleObjective:
    """A phase with one objective and one optimizer."""

    name = ""

    def __init__(
        self,
        accelerator: Accelerator,
        batches: Batches,
        config: PhaseConfig,
        objective: nn.Module,
        seed: int,
        matrices: Sequence[Tensor] = (),
    ) -> None:
        self.accelerator, self.batches, self.config, self.seed = accelerator, batches, config, seed
        self.part = OptimizedObjective(accelerator, objective, BETAS, matrices)

    def step(self, step: int) -> Terms:
        """Take one batch and update the weights."""
        batch = share_of_step(self.accelerator, self.batches, self.name, step, self.config.batch_size)
        loss, terms = self.part.objective(batch, step_random(self.accelerator, self.seed, self.name, step))
        self.part.optimizer_step(loss, lr_at(self.config, step), terms)
        return detached({"loss": loss, **terms})

    def state(self) -> dict[str, Any]:
        """The state of the optimizers."""
        return {"optimizers": self.part.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.part.load(state["optimizers"])


class CodebookPhase(_SingleObjective):
    """Phase 1: the image codebook, its encoder and a first generator."""

    name = "codebook"

    def __init__(
        self,
        accelerator: Accelerator,
        batches: Batches,
        config: TrainConfig,
        model: TextToImageModel,
        distance: PictureDistance,
    ) -> None:
        objective = CodebookObjective(model, config.losses, distance)
        super().__init__(accelerator, batches, config.codebook_phase, objective, config.seed)
        self.model = model

    def step(self, step: int) -> Terms:
        """Also initialize the codebook in the first step, and replace dead rows in the first half."""
        replaces = step % REPLACE_DEAD_EVERY == 0 and 0 < step < self.config.steps // 2
        if step == 0 or replaces:
            self._place_rows(step)
        return super().step(step)

    @torch.no_grad()
    def _place_rows(self, step: int) -> None:
        # Every process encodes the same whole batch, so that all codebooks stay equal.
        batch = self.batches.batch(self.name, step, self.config.batch_size)
        latents = self.model.image_encoder(batch.pictures.to(self.accelerator.device)).flatten(0, 2)
        generator = StepRandom(self.seed, self.name + "/rows", step).generator
        if step == 0:
            self.model.codebook.initialize(latents, generator)
        else:
            self.model.codebook.replace_dead_rows(latents, generator)


class LatentPhase(_SingleObjective):
    """Phase 2: text and noise to codes; codebook and generator are fixed."""

    name = "latent"

    def __init__(
        self, accelerator: Accelerator, batches: Batches, config: TrainConfig, model: TextToImageModel
    ) -> None:
        objective = LatentObjective(model, config.losses)
        matrices = hidden_matrices(objective)
        super().__init__(accelerator, batches, config.latent_phase, objective, config.seed, matrices)
        self.model = model

    def step(self, step: int) -> Terms:
        """Also fill the retrieval index from the corpus in the first step."""
        if step == 0 and self.model.latent.retrieval is not None:
            self._fill(self.model.latent.retrieval)
        return super().step(step)

    @torch.no_grad()
    def _fill(self, index: RetrievalIndex) -> None:
        # Every process fills the index from the same pictures.
        styled, bare, codes, is_composition = [], [], [], []
        kept = entries_of(len(self.batches.source), len(index.keys))
        for indices in kept.split(FILLED_AT_ONCE):
            taken = self.batches.plainest(indices.tolist(), style=True)
            device = self.accelerator.device
            styled.append(self._sentences(taken))
            bare.append(self._sentences(self.batches.plainest(indices.tolist(), style=False)))
            latents = self.model.image_encoder(taken.pictures.to(device))
            codes.append(self.model.codebook.nearest(latents).flatten(1))
            is_composition += [self.batches.source.is_composition(number) for number in indices.tolist()]
        index.fill(torch.cat(styled), torch.cat(bare), torch.cat(codes), torch.tensor(is_composition))

    def _sentences(self, batch: TrainingBatch) -> Tensor:
        mask = batch.attention_mask.to(self.accelerator.device)
        text, _ = self.model.text_encoder.words(batch.text_codes.to(mask.device), mask)
        return sentence_from_text(text, mask)


class JointPhase:
    """Phase 3: generator and latent network against the discriminator, and at intervals the image encoder."""

    name = "joint"

    def __init__(
        self,
        accelerator: Accelerator,
        batches: Batches,
        config: TrainConfig,
        model: TextToImageModel,
        distance: PictureDistance,
    ) -> None:
        self.accelerator, self.batches, self.whole = accelerator, batches, config
        self.config, self.seed = config.joint_phase, config.seed
        self.discriminator = make_discriminator(config.model).to(accelerator.device)
        joint = JointObjective(model, config.losses, distance, self.discriminator)
        encoder = EncoderObjective(CodebookObjective(model, config.losses, distance))
        discriminating = DiscriminatorObjective(model, config.losses, self.discriminator)
        self.generator = OptimizedObjective(accelerator, joint, ADVERSARIAL_BETAS)
        self.encoder = OptimizedObjective(accelerator, encoder, BETAS)
        self.discriminating = OptimizedObjective(accelerator, discriminating, ADVERSARIAL_BETAS)

    def step(self, step: int) -> Terms:
        """Update the generator's side, then the discriminator, and at intervals the image encoder."""
        batch = share_of_step(self.accelerator, self.batches, self.name, step, self.config.batch_size)
        rate = lr_at(self.config, step)
        losses, interval = self.whole.losses, self.whole.encoder_update_interval
        weight = losses.adversarial * min(1.0, step / (ADVERSARIAL_RAMP * self.config.steps))
        random = step_random(self.accelerator, self.seed, self.name, step)
        loss, terms, generated = self.generator.objective(batch, random, weight)
        self.generator.optimizer_step(loss, rate, terms)
        terms = {"loss": loss, **terms}
        if losses.adversarial > 0:
            terms |= self._train_discriminator(batch, generated, step, rate)
        if interval > 0 and step % interval == 0:
            loss, encoder_terms = self.encoder.objective(batch, random)
            self.encoder.optimizer_step(loss, rate * ENCODER_RATE, encoder_terms)
            terms["psnr"] = encoder_terms["psnr"]
        return detached(terms)

    def _train_discriminator(self, batch: TrainingBatch, generated: Tensor, step: int, rate: float) -> Terms:
        random = step_random(self.accelerator, self.seed, self.name + "/judge", step)
        loss, terms = self.discriminating.objective(batch, generated, random)
        self.discriminating.optimizer_step(loss, rate, terms)
        return detached(terms)

    def _parts(self) -> dict[str, OptimizedObjective]:
        return {"generator": self.generator, "encoder": self.encoder, "discriminating": self.discriminating}

    def state(self) -> dict[str, Any]:
        """The states of all optimizers and the discriminator."""
        state: dict[str, Any] = {name: part.state() for name, part in self._parts().items()}
        return {**state, "discriminator": self.discriminator.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        for name, part in self._parts().items():
            part.load(state[name])
        self.discriminator.load_state_dict(state["discriminator"])


def on_any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether `flag` is set on any process, the same answer on all of them."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device)) > 0)


def share_of_step(
    accelerator: Accelerator, batches: Batches, phase: str, step: int, size: int
) -> TrainingBatch:
    """This process's samples of a step of `size` samples, on its device."""
    world = accelerator.num_processes
    batch = batches.batch(phase, step, size // world, accelerator.process_index, world)
    device = accelerator.device
    return TrainingBatch(
        pictures=batch.pictures.to(device),
        text_codes=batch.text_codes.to(device),
        attention_mask=batch.attention_mask.to(device),
        style_named=batch.style_named.to(device),
        captions=batch.captions,
        indices=batch.indices,
        same_concept=batch.same_concept,
        corpus=batch.corpus,
    )


def step_random(accelerator: Accelerator, seed: int, phase: str, step: int) -> StepRandom:
    """The random numbers of this process in a step."""
    return StepRandom(seed, phase, step, accelerator.process_index, accelerator.num_processes)


def detached(terms: Terms) -> Terms:
    """The terms without their gradients."""
    return {name: term.detach() for name, term in terms.items()}
