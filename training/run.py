"""A whole training run: every phase in turn, resumable after kill -9 at any moment.

RUN/config.json      what was asked for
RUN/tokenizer.json   the pruned tokenizer
RUN/state.pt         weights, averages, optimisers and the place in the schedule
RUN/log.jsonl        the terms of the losses
RUN/samples/         sheets of drawings while it trains
RUN/checkpoint/      the result
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from tokenizers import Tokenizer

from textual_vision.runtime.errors import IntegrityError, TextualVisionError, UsageError
from textual_vision.training.batches import Batches, PictureSource
from textual_vision.training.checkpoint import save_checkpoint
from textual_vision.training.config import TrainConfig, config_from_dict, config_to_dict
from textual_vision.training.ema import Ema
from textual_vision.training.model import TextToImageModel
from textual_vision.training.objectives import PictureDistance
from textual_vision.training.phases import CodebookPhase, DivergedError, JointPhase, LatentPhase, Phase
from textual_vision.training.text_codes import fit_text_codes, text_code_usage, token_states
from textual_vision.training.vocabulary import pruned_tokenizer, warm_start

PHASES = ("codebook", "latent", "joint")
LOG_EVERY = 10  # steps
SAMPLE_EVERY = 200  # steps
SHOWN_CAPTIONS = 20_000  # that the text codes are fitted to and judged by

Say = Callable[[str], None]


class TrainingRun:
    """Everything that a run holds in memory."""

    def __init__(self, config: TrainConfig, source: PictureSource, notice: str, out: Path, say: Say) -> None:
        self.config, self.source, self.notice, self.out, self.say = config, source, notice, out, say
        self.accelerator = Accelerator()
        torch.manual_seed(config.seed)
        self.model = TextToImageModel(config.model).to(memory_format=torch.channels_last)
        self.phase_index, self.next_step = 0, 0
        self.phase: Phase | None = None
        self.interrupted = False
        self.on_sample: Callable[[TrainingRun], None] | None = None
        self.history: list[dict[str, Any]] = []

    # --- the way through -----------------------------------------------------------------------------

    def start(self) -> None:
        """Phase 0, from nothing: vocabulary, warm start, text codes."""
        captions = all_captions(self.source)
        self.say(f"{len(self.source):,} pictures, {len(captions):,} distinct captions")
        self.tokenizer, old_ids = pruned_tokenizer(captions, self.config.model.text)
        warm_start(self.model.text_encoder.encoder, self.config.model.text, old_ids)
        chosen = torch.randperm(len(captions), generator=torch.Generator().manual_seed(self.config.seed))
        some = [captions[int(i)] for i in chosen[:SHOWN_CAPTIONS]]
        states = token_states(self.model.text_encoder, self.tokenizer, some)
        phase = self.config.text_phase
        kept = torch.randperm(len(states), generator=torch.Generator().manual_seed(self.config.seed))
        error = fit_text_codes(
            self.model.text_encoder,
            states[kept[: phase.batch]],
            iterations=phase.steps,
            seed=self.config.seed,
        )
        self._make_batches()
        usage = text_code_usage(self.batches, some[:4000])
        self.say(
            f"text codes: {usage.distinct:.2%} distinct sequences, {usage.used:.0%} of codes used, "
            f"R@1 {usage.recall_at_1:.3f}, squared error {error:.4f}"
        )
        self._log({"phase": "text", "error": error, **asdict(usage)})
        self.model.to(self.accelerator.device)
        self.ema = Ema(self.model, self.config.ema)
        self.save()

    def go(self) -> Path:
        """Every step that is left; returns the folder of the finished checkpoint."""
        self._catch_interrupts()
        while self.phase_index < len(PHASES):
            if self.phase is None:
                self.phase = self._phase(PHASES[self.phase_index])
            self._train(self.phase)
            # What a phase hands on is its average; the last noisy steps are dropped.
            self.model.load_state_dict(self.ema.weights)
            self.phase_index, self.next_step, self.phase = self.phase_index + 1, 0, None
            self.ema = Ema(self.model, self.config.ema)
            self.save()
        return self.save_result()

    def _train(self, phase: Phase) -> None:
        self.model.train()
        last_save, started = time.monotonic(), time.monotonic()
        first = self.next_step
        while self.next_step < phase.config.steps:
            step = self.next_step
            try:
                terms = phase.step(step)
            except DivergedError as error:
                self.save()
                raise TextualVisionError(
                    f"phase {phase.name}, step {step}: {error} is not a number",
                    f"the weights before it are in {self.out}; lower {phase.name}_phase.learning_rate",
                ) from error
            self.ema.update(self.model)
            self.next_step = step + 1
            if step % LOG_EVERY == 0 or self.next_step == phase.config.steps:
                left = (
                    (time.monotonic() - started)
                    / (self.next_step - first)
                    * (phase.config.steps - self.next_step)
                )
                self._report(phase, step, {n: float(t) for n, t in terms.items()}, left)
            if self.on_sample is not None and (step + 1) % SAMPLE_EVERY == 0:
                self.on_sample(self)
            if self.interrupted or time.monotonic() - last_save > 60 * self.config.checkpoint_minutes:
                self.save()
                last_save = time.monotonic()
            if self.interrupted:
                raise TextualVisionError(
                    f"interrupted after step {self.next_step} of phase {phase.name}; everything is saved",
                    f"tv-train run --resume --out {self.out} goes on",
                )

    def _phase(self, name: str) -> Phase:
        config = self.config
        if name == "latent":
            return LatentPhase(self.accelerator, self.batches, config, self.model)
        if not hasattr(self, "distance"):
            self.distance = PictureDistance(config.losses).to(self.accelerator.device)
        kind = CodebookPhase if name == "codebook" else JointPhase
        return kind(self.accelerator, self.batches, config, self.model, self.distance)

    def _make_batches(self) -> None:
        self.batches = Batches(
            self.source,
            self.tokenizer,
            self.model.text_encoder,
            seed=self.config.seed,
            style_in_caption=self.config.style_in_caption,
        )

    # --- what is written ------------------------------------------------------------------------------

    def save(self) -> None:
        """The run's state, whole or not at all."""
        if not self.accelerator.is_main_process:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(self.out / "tokenizer.json"))
        write_text(self.out / "config.json", json.dumps(config_to_dict(self.config), indent=2) + "\n")
        state = {
            "phase_index": self.phase_index,
            "next_step": self.next_step,
            "model": self.model.state_dict(),
            "ema": self.ema.state(),
            "phase": self.phase.state() if self.phase else None,
        }
        fresh = self.out / "state.pt.tmp"
        torch.save(state, fresh)
        os.replace(fresh, self.out / "state.pt")

    def resume(self) -> None:
        """Goes on exactly where `save` left off."""
        path = self.out / "state.pt"
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except (OSError, RuntimeError, ValueError) as error:
            raise IntegrityError(f"{path} can't be read: {error}", "start a new run") from error
        self.tokenizer = Tokenizer.from_file(str(self.out / "tokenizer.json"))
        self.model.load_state_dict(state["model"])
        for parameter in self.model.text_encoder.encoder.parameters():
            parameter.requires_grad_(False)
        self._make_batches()
        self.model.to(self.accelerator.device)
        self.ema = Ema(self.model, self.config.ema)
        self.ema.load(state["ema"])
        self.phase_index, self.next_step = state["phase_index"], state["next_step"]
        if state["phase"] is not None:
            self.phase = self._phase(PHASES[self.phase_index])
            self.phase.load(state["phase"])
        where = PHASES[self.phase_index] if self.phase_index < len(PHASES) else "end"
        self.say(f"resumed: phase {where}, step {self.next_step}")

    def save_result(self) -> Path:
        """The averaged weights as a checkpoint."""
        folder = self.out / "checkpoint"
        if self.accelerator.is_main_process:
            save_checkpoint(folder, self.config, self.ema.weights, self.tokenizer, self.notice)
        return folder

    def _report(self, phase: Phase, step: int, terms: dict[str, float], left: float) -> None:
        if not self.accelerator.is_main_process:
            return
        shown = "  ".join(f"{name} {value:.4g}" for name, value in terms.items())
        self.say(f"{phase.name} {step + 1}/{phase.config.steps}  {shown}  {left / 60:.0f} min left")
        self._log({"phase": phase.name, "step": step, **terms})

    def _log(self, line: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.out.mkdir(parents=True, exist_ok=True)
            with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")

    def _catch_interrupts(self) -> None:
        def note(number: int, frame: FrameType | None) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
            self.say("finishing this step, then saving (once more to stop at once)")

        signal.signal(signal.SIGINT, note)
        signal.signal(signal.SIGTERM, note)


def all_captions(source: PictureSource) -> list[str]:
    """Every distinct caption, with and without its style, sorted."""
    from textual_vision.training.batches import caption_with_style

    found = set()
    for index in range(len(source)):
        for caption in source.captions(index):
            found |= {caption, caption_with_style(caption, source.style(index))}
    return sorted(found)


def run(
    config: TrainConfig, source: PictureSource, notice: str, out: Path, *, resume: bool, say: Say
) -> Path:
    """Trains `config` into `out`; raises UsageError when `out` holds another run."""
    exists = (out / "state.pt").is_file()
    if exists and not resume:
        raise UsageError(
            f"{out} holds a run already", "add --resume to go on with it, or choose another --out"
        )
    if resume and not exists:
        raise UsageError(f"{out} holds no run to resume", "leave --resume out to start one")
    if resume:
        saved = config_from_dict(TrainConfig, json.loads((out / "config.json").read_text(encoding="utf-8")))
        if saved != config:
            raise UsageError(
                f"{out} was started with another config", f"give {out / 'config.json'} as CONFIG"
            )
    training = TrainingRun(config, source, notice, out, say)
    if resume:
        training.resume()
    else:
        training.start()
    return training.go()


def write_text(path: Path, text: str) -> None:
    """Writes to a temporary name, then renames."""
    fresh = path.with_name(path.name + ".tmp")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)
