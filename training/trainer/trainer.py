"""A whole training run: every phase in turn, resumable after kill -9 at any moment.

RUN/config.json      the config
RUN/tokenizer.json   the pruned tokenizer
RUN/state.pt         weights, averages, optimizers and the place in the schedule
RUN/log.jsonl        the terms of the losses
RUN/samples/, RUN/tensorboard/, RUN/curves.png   see `run_logger`
RUN/before-joint.safetensors   the weights before the joint phase
RUN/kept.safetensors           the best weights of the phase so far, by the validation pictures
RUN/checkpoint/      the result
"""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch
from accelerate import Accelerator

from textual_vision.runtime.errors import TextualVisionError, UsageError
from textual_vision.runtime.files import write_atomic
from textual_vision.runtime.progress import ProgressCallback
from textual_vision.training.checkpoint import read_tokenizer, save_checkpoint
from textual_vision.training.config import TrainConfig, with_retrieval_entries
from textual_vision.training.config_rules import check_consistent
from textual_vision.training.data.batches import Batches, PictureSource, StepRandom
from textual_vision.training.evaluation.text_code_usage import text_code_usage
from textual_vision.training.int8_grid import round_weights_to_int8_grid
from textual_vision.training.models.caption_encoder import CaptionEncoder
from textual_vision.training.models.text_to_image import TextToImageModel
from textual_vision.training.models.vocabulary import pruned_tokenizer, warm_start
from textual_vision.training.trainer.ema import Ema, interpolate_weights, with_generator_of
from textual_vision.training.trainer.model_selection import (
    MIN_PICTURES,
    SCORE_EVERY,
    ValidationScorer,
    select_interpolation,
)
from textual_vision.training.trainer.objectives.reconstruction import PictureDistance
from textual_vision.training.trainer.phases import (
    CodebookPhase,
    DivergedError,
    JointPhase,
    LatentPhase,
    Phase,
    on_any_process,
)
from textual_vision.training.trainer.run_logger import LOG_EVERY, SAMPLE_EVERY, RunLogger, sample_sheet
from textual_vision.training.trainer.setup import (
    InterruptedRunError,
    Interrupts,
    all_captions,
    check_batch_sizes,
    mixed_precision,
)
from textual_vision.training.trainer.state import (
    BEFORE_JOINT,
    KEPT,
    PHASES,
    STATE,
    TOKENIZER,
    cut_log,
    phase_name,
    read_config,
    read_state,
    read_weights,
    write_config,
    write_state,
    write_weights,
)
from textual_vision.training.trainer.text_codes import fit_text_codes, token_states

FITTED_CAPTIONS = 20_000  # that the text codes are fitted to, at most
USAGE_CAPTIONS = 4000


class TrainingRun:
    """The state of a run: model, averages, phase and step."""

    def __init__(
        self,
        config: TrainConfig,
        source: PictureSource,
        notice: str,
        out: Path,
        on_progress: ProgressCallback,
        validation: PictureSource | None = None,
    ) -> None:
        self.config, self.source, self.notice, self.out = config, source, notice, out
        self.validation = validation
        self.best: float | None = None  # lowest KID of the phase so far
        self.accelerator = Accelerator(mixed_precision=mixed_precision(config.precision))
        self.is_main = self.accelerator.is_main_process
        self.on_progress = on_progress if self.is_main else (lambda line: None)
        check_consistent(config)
        check_batch_sizes(config, self.accelerator.num_processes)
        torch.manual_seed(config.seed)
        self.model = TextToImageModel(config.model, config.sampling)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.phase_index, self.next_step = 0, 0
        self.phase: Phase | None = None
        self.interrupts = Interrupts(self.on_progress)
        self.saved = "nothing"
        self.logger = RunLogger(out, self.on_progress)

    def start(self) -> None:
        """Start a run with phase 0: vocabulary, warm start, text codes."""
        captions = all_captions(self.source)
        self.on_progress(f"{len(self.source):,} pictures, {len(captions):,} distinct captions")
        text, phase, seed = self.config.model.text, self.config.text_phase, self.config.seed
        self.tokenizer, old_ids = pruned_tokenizer(captions, text)
        encoder = self.model.text_encoder
        warm_start(encoder.encoder, text, old_ids)
        chosen = torch.randperm(len(captions), generator=torch.Generator().manual_seed(seed))
        some = [captions[int(i)] for i in chosen[:FITTED_CAPTIONS]]
        states = token_states(encoder, self.tokenizer, some)
        kept = torch.randperm(len(states), generator=torch.Generator().manual_seed(seed))[
            : phase.token_states
        ]
        error = fit_text_codes(encoder, states[kept], iterations=phase.kmeans_iterations, seed=seed)
        self._make_batches()
        usage = text_code_usage(self.encode_captions, some[:USAGE_CAPTIONS])
        self.on_progress(
            f"text codes: {usage.distinct:.2%} distinct sequences, {usage.used:.0%} of codes used, "
            f"R@1 {usage.recall_at_1:.3f}, squared error {error:.4f}"
        )
        self.model.to(self.accelerator.device)
        self.ema = Ema(self.model, self.config.ema_decay)
        self.save()
        if self.is_main:
            self.logger.log({"phase": "text", "error": error, **asdict(usage)})

    def go(self) -> Path:
        """Train the remaining steps; return the folder of the checkpoint."""
        if self.is_main:
            self.logger.open(self._global_step())
        try:
            with self.interrupts:
                while self.phase_index < len(PHASES):
                    self._train_phase()
        finally:
            self.logger.close()
        if self.is_main:
            self.logger.curves()
        return self.save_result()

    def _train_phase(self) -> None:
        if self.phase is None:
            self.phase = self._phase(PHASES[self.phase_index])
        if self.is_main:
            self.logger.start_phase(self.phase.name, self.next_step, self.phase.config.steps)
        before = self._weights_before(self.phase.name)
        self._train(self.phase)
        # The next phase starts from an average, without the noise of the last steps.
        self.model.load_state_dict(self._weights_after(self.phase.name, before))
        self.phase_index, self.next_step, self.phase, self.best = self.phase_index + 1, 0, None, None
        self.accelerator.free_memory()
        self.ema = Ema(self.model, self.config.ema_decay)
        self.save()

    def _weights_before(self, phase: str) -> dict[str, torch.Tensor] | None:
        """The weights before the joint phase, from a file so that the phase can be resumed."""
        if phase != "joint":
            return None
        path = self.out / BEFORE_JOINT
        if self.next_step == 0 and self.is_main:
            write_weights(path, self.ema.weights)
        self.accelerator.wait_for_everyone()
        return read_weights(path)

    @cached_property
    def scorer(self) -> ValidationScorer | None:
        """The scorer of weights; None when there are too few validation pictures."""
        if self.validation is None or len(self.validation) < MIN_PICTURES:
            self.on_progress(
                f"fewer than {MIN_PICTURES} validation pictures: the last weights of each phase are kept"
            )
            return None
        return ValidationScorer(self.model, self.tokenizer, self.validation)

    def _weights_after(self, phase: str, before: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        """The selected weights of a phase, through a file so that every process has the same."""
        if self.is_main:
            if before is not None:
                after = with_generator_of(before, self.ema.weights)
                candidates = self.config.interpolation_candidates
                chosen = select_interpolation(self.scorer, before, after, candidates, self.on_progress)
                self.logger.log({"phase": "choice", **asdict(chosen)})
                write_weights(self.out / KEPT, interpolate_weights(before, after, chosen.share))
            elif self.best is None:
                write_weights(self.out / KEPT, self.ema.weights)
        self.accelerator.wait_for_everyone()
        return read_weights(self.out / KEPT)

    def _keep_if_best(self, phase: str, step: int, steps: int) -> None:
        """Score the averaged weights of the latent phase at intervals, and write the best."""
        due = (step + 1) % SCORE_EVERY == 0 or step + 1 == steps
        if phase != "latent" or not due or not self.is_main or self.scorer is None:
            return
        nats = self.scorer.code_cross_entropy(self.ema.weights, self.config.losses)
        kid = self.scorer.distance(self.ema.weights)
        self.logger.log(
            {"phase": phase, "step": step, "validation_cross_entropy": nats, "validation_kid": kid}
        )
        if better := self.best is None or kid < self.best:
            self.best = kid
            write_weights(self.out / KEPT, self.ema.weights)
        best = ", the best so far" if better else ""
        self.on_progress(f"validation: KID {kid:.4f}{best}; {nats:.4f} nats a code")

    def _train(self, phase: Phase) -> None:
        self.model.train()
        last_save = time.monotonic()
        while self.next_step < phase.config.steps:
            step = self.next_step
            try:
                terms = phase.step(step)
            except DivergedError as error:
                raise TextualVisionError(
                    f"phase {phase.name}, step {step}: {error} is not a finite number",
                    f"{self.out / STATE} keeps the weights of {self.saved}; lower "
                    f"{phase.name}_phase.learning_rate in {self.out / 'config.json'} and --resume with it",
                ) from error
            self.ema.update(self.model)
            self.next_step = step + 1
            self._report(phase, step, terms)
            self._keep_if_best(phase.name, step, phase.config.steps)
            stop = on_any_process(self.accelerator, self.interrupts.asked)
            if stop or time.monotonic() - last_save > 60 * self.config.checkpoint_minutes:
                self.save()
                last_save = time.monotonic()
            if stop:
                raise InterruptedRunError(
                    f"interrupted after step {self.next_step} of phase {phase.name}; everything is saved",
                    f"tv-train run {self.out / 'config.json'} --output {self.out} --resume continues",
                )

    def _phase(self, name: str) -> Phase:
        config = self.config
        if name != "latent" and not hasattr(self, "distance"):
            self.distance = PictureDistance(config.losses).to(self.accelerator.device)
        # New weights of a phase are the same whether or not the run was resumed before it.
        torch.manual_seed(StepRandom(config.seed, name, -1).generator.initial_seed())
        if name == "latent":
            return LatentPhase(self.accelerator, self.batches, config, self.model)
        kind = CodebookPhase if name == "codebook" else JointPhase
        return kind(self.accelerator, self.batches, config, self.model, self.distance)

    def _make_batches(self) -> None:
        self.encode_captions = CaptionEncoder(self.tokenizer, self.model.text_encoder)
        self.batches = Batches(
            self.source,
            self.encode_captions,
            seed=self.config.seed,
            style_in_caption=self.config.style_in_caption,
        )

    def save(self) -> None:
        """Write the state of the run, whole or not at all."""
        if not self.is_main:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomic(self.out / TOKENIZER, self.tokenizer.to_str(pretty=True).encode())
        write_config(self.out, self.config)
        write_state(
            self.out,
            {
                "phase_index": self.phase_index,
                "next_step": self.next_step,
                "model": self.model.state_dict(),
                "ema": self.ema.state(),
                "phase": self.phase.state() if self.phase else None,
                "best": self.best,
            },
        )
        self.saved = f"phase {phase_name(self.phase_index)}, step {self.next_step}"

    def resume(self) -> None:
        """Restore the state that `save` wrote."""
        state = read_state(self.out / STATE)
        self.tokenizer = read_tokenizer(self.out / TOKENIZER)
        self.model.load_state_dict(state["model"])
        for parameter in self.model.text_encoder.encoder.parameters():
            parameter.requires_grad_(False)
        self._make_batches()
        self.model.to(self.accelerator.device)
        self.ema = Ema(self.model, self.config.ema_decay)
        self.ema.load(state["ema"])
        self.phase_index, self.next_step = state["phase_index"], state["next_step"]
        self.best = state["best"]
        if state["phase"] is not None:
            self.phase = self._phase(PHASES[self.phase_index])
            self.phase.load(state["phase"])
        if self.is_main:
            cut_log(self.out, self.phase_index, self.next_step)
        self.saved = f"phase {phase_name(self.phase_index)}, step {self.next_step}"
        self.on_progress(f"resumed: {self.saved}")

    def save_result(self) -> Path:
        """Write the averaged weights as a checkpoint; return its folder."""
        folder = self.out / "checkpoint"
        if self.is_main:
            weights = round_weights_to_int8_grid(
                {name: weight.cpu() for name, weight in self.ema.weights.items()}
            )
            save_checkpoint(folder, self.config, weights, self.tokenizer, self.notice)
        self.on_progress(f"wrote {folder}")
        return folder

    def _report(self, phase: Phase, step: int, terms: dict[str, torch.Tensor]) -> None:
        steps = phase.config.steps
        if step % LOG_EVERY == 0 or step + 1 == steps:
            mean = self.accelerator.reduce(torch.stack(list(terms.values())), reduction="mean")
            shown = dict(zip(terms, mean.tolist(), strict=True))
            if self.is_main:
                self.logger.step(phase.name, step, steps, shown, self._global_step())
        if self.is_main and (step + 1) % SAMPLE_EVERY == 0:
            sheet = sample_sheet(self.model, self.ema.weights, self.tokenizer, self.source)
            self.logger.sample(
                f"{self.phase_index + 1}-{phase.name}-{step + 1:06}", sheet, self._global_step()
            )

    def _global_step(self) -> int:
        """Steps since the start of the first phase."""
        phases = (self.config.codebook_phase, self.config.latent_phase, self.config.joint_phase)
        return sum(phase.steps for phase in phases[: self.phase_index]) + self.next_step


def run(
    config: TrainConfig,
    source: PictureSource,
    notice: str,
    out: Path,
    *,
    resume: bool,
    on_progress: ProgressCallback,
    validation: PictureSource | None = None,
) -> Path:
    """Train `config` in the folder `out`; return the folder of the checkpoint.

    `validation` are pictures apart from `source` whose scores decide which weights are saved.
    Raise UsageError when `out` has another run.
    """
    config = with_retrieval_entries(config, len(source))
    exists = (out / STATE).is_file()
    if exists and not resume:
        raise UsageError(
            f"{out} has a run already", "add --resume to continue it, or choose another --output"
        )
    if resume and not exists:
        raise UsageError(f"{out} has no run to resume", "leave out --resume to start one")
    if resume and read_config(out) != config:
        raise UsageError(f"{out} was started with another config", f"give {out / 'config.json'} as CONFIG")
    training = TrainingRun(config, source, notice, out, on_progress, validation)
    if resume:
        training.resume()
    else:
        training.start()
    return training.go()
