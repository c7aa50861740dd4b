"""A checkpoint: a folder with everything that drawing, exporting and evaluating need. Never pickle.

config.json          the training config, every dimension in it
model.safetensors    weights; matrices and kernels in half precision, the rest in float32
tokenizer.json       the pruned tokenizer
NOTICE               licences of data and pretrained weights
evaluation.json      what `tv-train evaluate` measured (absent before)
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.training.config import (
    CONFIG_FOLDER,
    SCHEMA_VERSION,
    TrainConfig,
    config_from_dict,
    config_to_dict,
)
from textual_vision.training.model import TextToImageModel

SHIPPED_FOLDER = CONFIG_FOLDER.parent / "checkpoints"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "NOTICE")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model in evaluation mode and what belongs to it."""

    config: TrainConfig
    model: TextToImageModel
    tokenizer: Tokenizer
    notice: str
    folder: Path


def find_checkpoint(name_or_path: str) -> Path:
    """The folder of a shipped checkpoint by its name, or of any by its path; UsageError if neither."""
    for folder in (Path(name_or_path), SHIPPED_FOLDER / name_or_path):
        if (folder / "config.json").is_file():
            return folder
    shipped = sorted(p.parent.name for p in SHIPPED_FOLDER.glob("*/config.json"))
    if Path(name_or_path).is_dir():
        raise UsageError(f"{name_or_path} is not a checkpoint: it has no config.json")
    raise UsageError(
        f"no checkpoint {name_or_path!r}",
        f"give a checkpoint's folder, or a shipped name: {', '.join(shipped)}",
    )


def load_checkpoint(name_or_path: str) -> Checkpoint:
    """Raises UsageError when there is none, IntegrityError when it is damaged or disagrees with itself."""
    folder = find_checkpoint(name_or_path)
    for name in FILES:
        if not (folder / name).is_file():
            raise IntegrityError(f"{folder}: {name} is missing", "fetch or save the checkpoint again")
    config = read_config(folder / "config.json")
    model = TextToImageModel(config.model)
    _load_weights(model, folder / "model.safetensors")
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:
        raise IntegrityError(f"{folder}: tokenizer.json can't be read: {error}") from error
    if tokenizer.get_vocab_size() != config.model.text.vocabulary:
        raise IntegrityError(
            f"{folder}: tokenizer.json has {tokenizer.get_vocab_size()} pieces, "
            f"config.json says {config.model.text.vocabulary}"
        )
    notice = (folder / "NOTICE").read_text(encoding="utf-8")
    return Checkpoint(config=config, model=model.eval(), tokenizer=tokenizer, notice=notice, folder=folder)


def read_config(path: Path) -> TrainConfig:
    """The config of a checkpoint; raises IntegrityError when another version wrote it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path} is not JSON: {error}") from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        raise IntegrityError(
            f"{path}: schema_version is {version}, this version reads {SCHEMA_VERSION}",
            "use the textual-vision that wrote it, or train again",
        )
    return config_from_dict(TrainConfig, values)


def _load_weights(model: TextToImageModel, path: Path) -> None:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise IntegrityError(
            f"{path} can't be read: {error}", "the file is damaged: fetch it again"
        ) from error
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in weights:
            raise IntegrityError(
                f"{path}: tensor {name} is missing; config.json asks for {tuple(tensor.shape)}"
            )
        if weights[name].shape != tensor.shape:
            raise IntegrityError(
                f"{path}: tensor {name} is {tuple(weights[name].shape)}, "
                f"config.json asks for {tuple(tensor.shape)}",
                "config.json and model.safetensors are of different models",
            )
    unknown = sorted(weights.keys() - expected.keys())
    if unknown:
        raise IntegrityError(f"{path}: tensor {unknown[0]} is not part of the model in config.json")
    model.load_state_dict({name: w.to(expected[name].dtype) for name, w in weights.items()})


def save_checkpoint(
    folder: Path, config: TrainConfig, weights: dict[str, torch.Tensor], tokenizer: Tokenizer, notice: str
) -> None:
    """Writes a checkpoint beside `folder` and puts it in its place when whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=folder.name + ".", suffix=".tmp", dir=folder.parent))
    try:
        fresh.chmod(0o755)
        (fresh / "config.json").write_text(json.dumps(config_to_dict(config), indent=2) + "\n")
        save_file({n: _stored(n, w) for n, w in weights.items()}, fresh / "model.safetensors")
        (fresh / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner alone
        tokenizer.save(str(fresh / "tokenizer.json"))
        (fresh / "NOTICE").write_text(notice, encoding="utf-8")
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=folder.name + ".", suffix=".old", dir=folder.parent))
            folder.rename(old / folder.name)
            fresh.rename(folder)
            shutil.rmtree(old)
        else:
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _stored(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Matrices and kernels as float16: training rounds them before they are evaluated.

    Codebook rows stay float32: their nearest neighbours must not change by storing them.
    """
    if weight.ndim >= 2 and weight.is_floating_point() and not name.startswith("codebook."):
        return weight.detach().half().contiguous()
    return weight.detach().contiguous()
