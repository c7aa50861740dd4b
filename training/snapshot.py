"""A checkpoint out of a run that is still going: its averaged weights as they were last saved."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.training.checkpoint import save_checkpoint
from textual_vision.training.config import TrainConfig, config_from_dict
from textual_vision.training.sources import notice_of

PHASES = ("codebook", "latent", "joint")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where a checkpoint was put and how far its run had come."""

    folder: Path
    phase: str
    step: int


def snapshot(run: Path, out: Path) -> Snapshot:
    """Writes the averaged weights of RUN/state.pt as a checkpoint to `out`; the run isn't disturbed."""
    if not (run / "state.pt").is_file():
        raise UsageError(f"{run} holds no run: state.pt is missing", "give the folder that --out named")
    state = read_state(run / "state.pt")
    config = read_run_config(run)
    weights = {name: w for name, w in state["ema"].items() if isinstance(w, Tensor)}
    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    save_checkpoint(out, config, weights, tokenizer, notice_of(config))
    phase = PHASES[state["phase_index"]] if state["phase_index"] < len(PHASES) else "end"
    return Snapshot(folder=out, phase=phase, step=state["next_step"])


def read_run_config(run: Path) -> TrainConfig:
    """RUN/config.json; IntegrityError when it is no JSON."""
    path = run / "config.json"
    try:
        return config_from_dict(TrainConfig, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} can't be read: {error}", "start a new run") from error


def read_state(path: Path) -> dict[str, Any]:
    """What a run saved; IntegrityError when the file is damaged."""
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise IntegrityError(f"{path} can't be read: {error}", "start a new run") from error
    return state
