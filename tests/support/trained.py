"""What a run that went through every phase has left."""

from __future__ import annotations

import math
from pathlib import Path

from textual_vision.training.trainer.state import PHASES, STATE, read_log, read_state


def assert_trained(run: Path, *, steps: int) -> None:
    """The run has done `steps` steps in each phase, and all of its loss terms and weights are finite."""
    state = read_state(run / STATE)
    assert (state["phase_index"], state["next_step"]) == (len(PHASES), 0)
    assert all(weight.isfinite().all() for weight in state["model"].values())
    lines = [line for line in read_log(run) if line["phase"] in PHASES and "loss" in line]
    assert {line["phase"]: line["step"] for line in lines} == dict.fromkeys(PHASES, steps - 1)
    assert all(math.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))
