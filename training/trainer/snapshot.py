"""A checkpoint of a run that has not ended: the averaged weights of its last save."""

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
    """The folder of a snapshot, and the phase and step of its run."""

    folder: Path
    phase: str
    step: int


def snapshot(run: Path, out: Path) -> Snapshot:
    """Write the averaged weights of RUN/state.pt as a checkpoint to `out`, without stopping the run."""
    if not (run / STATE).is_file():
        raise UsageError(
            f"{run} is not a run: state.pt is missing", "give the folder of `tv-train run --output`"
        )
    state = read_state(run / STATE)
    config = read_config(run)
    weights = round_weights_to_int8_grid(
        {name: w for name, w in state["ema"].items() if isinstance(w, Tensor)}
    )
    tokenizer = read_tokenizer(run / TOKENIZER)
    save_checkpoint(out, config, weights, tokenizer, notice_of(config))
    return Snapshot(folder=out, phase=phase_name(state["phase_index"]), step=state["next_step"])
