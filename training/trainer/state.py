"""Files that let a run be resumed, also after kill -9: written whole or not at all, read strictly."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from textual_vision.runtime.errors import IntegrityError, TextualVisionError
from textual_vision.runtime.files import write_atomic
from textual_vision.runtime.strict_json import json_from_bytes
from textual_vision.training.config import TrainConfig
from textual_vision.training.config_file import bytes_from_config, config_from_json

PHASES = ("codebook", "latent", "joint")
STATE, CONFIG, TOKENIZER, LOG = "state.pt", "config.json", "tokenizer.json", "log.jsonl"
BEFORE_JOINT, KEPT = "before-joint.safetensors", "kept.safetensors"


def phase_name(index: int) -> str:
    """The name of a phase by its index; "end" after the last."""
    return PHASES[index] if index < len(PHASES) else "end"


def write_state(run: Path, state: dict[str, Any]) -> None:
    """Replace RUN/state.pt; on TextualVisionError the older file is unchanged."""
    fresh = run / f"{STATE}.tmp"
    try:
        torch.save(state, fresh)
        fresh.replace(run / STATE)
    except (OSError, RuntimeError) as error:
        fresh.unlink(missing_ok=True)
        # torch wraps the system's error; the last line of its message is a place in its source.
        reason = str(error).splitlines()[0]
        raise TextualVisionError(
            f"{run / STATE} can't be written: {reason}",
            "is the disk full? Free some space, then resume from the older state with --resume",
        ) from error


def read_state(path: Path) -> dict[str, Any]:
    """The saved state of a run, on the CPU; IntegrityError when the file is damaged."""
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise IntegrityError(f"{path} can't be read: {reason}", "start a new run") from error
    return state


def write_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write weights as one safetensors file, whole or not at all."""
    write_atomic(path, save({name: weight.detach().cpu().contiguous() for name, weight in weights.items()}))


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a safetensors file; IntegrityError when it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise IntegrityError(f"{path} can't be read: {error}", "start a new run") from error


def write_config(run: Path, config: TrainConfig) -> None:
    """Write RUN/config.json."""
    write_atomic(run / CONFIG, bytes_from_config(config))


def read_config(run: Path) -> TrainConfig:
    """The config in RUN/config.json; IntegrityError when it is missing or not JSON."""
    path = run / CONFIG
    try:
        return config_from_json(json_from_bytes(path.read_bytes(), str(path)), str(path))
    except (OSError, IntegrityError) as error:
        raise IntegrityError(f"{path} can't be read: {error}", "start a new run") from error


def read_log(run: Path) -> list[dict[str, Any]]:
    """Every complete line of RUN/log.jsonl."""
    path = run / LOG
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    # A kill may have cut the last line.
    return [json.loads(line) for line in lines if line.endswith("\n")]


def cut_log(run: Path, phase_index: int, next_step: int) -> None:
    """Remove the log lines of steps that a resumed run repeats."""
    kept = [line for line in read_log(run) if _place(line) < (phase_index, next_step)]
    write_atomic(run / LOG, "".join(json.dumps(line) + "\n" for line in kept).encode())


def _place(line: dict[str, Any]) -> tuple[int, int]:
    phase = line.get("phase")
    return (PHASES.index(phase) if phase in PHASES else -1, int(line.get("step", -1)))
