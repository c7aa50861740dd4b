"""A checkpoint out of a run that is still going: its averaged weights as they were last saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from textual_vision.runtime.errors import UsageError
from textual_vision.training.checkpoint import read_tokenizer, save_checkpoint
from textual_vision.training.int8_grid import round_weights_to_int8_grid
from textual_vision.training.sources import notice_of
from textual_vision.training.trainer.state import STATE, TOKENIZER, phase_name, read_config, read_state


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where a checkpoint was put and how far its run had come."""

    folder: Path
    phase: str
    step: int


def snapshot(run: Path, out: Path) -> Snapshot:
    """Writes the averaged weights of RUN/state.pt as a checkpoint to `out`; the run isn't disturbed."""
    if not (run / STATE).is_file():
        raise UsageError(f"{run} holds no run: state.pt is missing", "give the folder that --output named")
    state = read_state(run / STATE)
    config = read_config(run)
    weights = round_weights_to_int8_grid(
        {name: w for name, w in state["ema"].items() if isinstance(w, Tensor)}
    )
    tokenizer = read_tokenizer(run / TOKENIZER)
    save_checkpoint(out, config, weights, tokenizer, notice_of(config))
    return Snapshot(folder=out, phase=phase_name(state["phase_index"]), step=state["next_step"])
