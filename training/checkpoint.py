"""A checkpoint: a folder with everything that generation, export and evaluation need, without pickle.

config.json          the training config with every field
model.safetensors    weights: matrices int8 with a scale for each row, kernels float16, the rest float32
tokenizer.json       the pruned tokenizer
NOTICE               licenses of data and pretrained weights
evaluation.json      scores of `tv-train evaluate` (absent before)
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from tokenizers import Tokenizer

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.files import replace_folder, write_atomic
from textual_vision.runtime.strict_json import json_from_bytes
from textual_vision.training.config import SCHEMA_VERSION, TrainConfig
from textual_vision.training.config_file import bytes_from_config, config_from_json
from textual_vision.training.int8_grid import int8_row_scales, round_to_int8_grid, uses_int8_grid
from textual_vision.training.models.text_to_image import TextToImageModel

SHIPPED_FOLDER = Path(__file__).parent / "checkpoints"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "NOTICE")
SCALE = ".scale"  # suffix of the scales of an int8 tensor
AGAIN_HINT = "the file is damaged: fetch or save the checkpoint again"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model in evaluation mode with its config, tokenizer and NOTICE."""

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
        raise UsageError(
            f"{name_or_path} is not a checkpoint: it has no config.json",
            "give the folder that training wrote: RUN/checkpoint",
        )
    raise UsageError(
        f"no checkpoint {name_or_path!r}",
        f"give a checkpoint's folder, or a shipped name: {', '.join(shipped)}",
    )


def load_checkpoint(name_or_path: str) -> Checkpoint:
    """A shipped checkpoint by its name, or any by its folder.

    Raise UsageError when there is none, IntegrityError when files are damaged or contradict each other.
    """
    folder = find_checkpoint(name_or_path)
    for name in FILES:
        if not (folder / name).is_file():
            raise IntegrityError(f"{folder}: {name} is missing", "fetch or save the checkpoint again")
    config = read_config(folder / "config.json")
    model = _model(config, folder)
    _load_weights(model, folder / "model.safetensors")
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    if tokenizer.get_vocab_size() != config.model.text.vocabulary:
        raise IntegrityError(
            f"{folder}: tokenizer.json has {tokenizer.get_vocab_size()} pieces, "
            f"config.json says {config.model.text.vocabulary}",
            "the two are of different models: fetch or save the checkpoint again",
        )
    try:
        notice = (folder / "NOTICE").read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{folder / 'NOTICE'} is not text: {error}", AGAIN_HINT) from error
    return Checkpoint(config=config, model=model.eval(), tokenizer=tokenizer, notice=notice, folder=folder)


def read_config(path: Path) -> TrainConfig:
    """The config of a checkpoint; IntegrityError when it is damaged or another version wrote it."""
    try:
        value = json_from_bytes(path.read_bytes(), str(path))
    except IntegrityError as error:
        raise IntegrityError(error.message, AGAIN_HINT) from None
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise IntegrityError(
            f"{path}: schema_version is {version}, this version reads {SCHEMA_VERSION}",
            "use the version that wrote it, or train again",
        )
    return config_from_json(value, str(path))


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in `path`; IntegrityError when the file is missing or damaged."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises no class of its own
        raise IntegrityError(f"{path} can't be read: {error}", AGAIN_HINT) from error


def _model(config: TrainConfig, folder: Path) -> TextToImageModel:
    """The model that the config describes, with fresh weights."""
    try:
        return TextToImageModel(config.model, config.sampling)
    except (RuntimeError, MemoryError, ArithmeticError, ValueError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        problem = f"{folder / 'config.json'} describes a model that cannot be made: {reason}"
        raise IntegrityError(problem, AGAIN_HINT) from error


def _load_weights(model: TextToImageModel, path: Path) -> None:
    try:
        weights = _unpacked(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise IntegrityError(f"{path} can't be read: {error}", AGAIN_HINT) from error
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in weights:
            raise IntegrityError(
                f"{path}: tensor {name} is missing; config.json asks for {tuple(tensor.shape)}",
                "config.json and model.safetensors are of different models",
            )
        if weights[name].shape != tensor.shape:
            raise IntegrityError(
                f"{path}: tensor {name} is {tuple(weights[name].shape)}, "
                f"config.json asks for {tuple(tensor.shape)}",
                "config.json and model.safetensors are of different models",
            )
        if weights[name].is_floating_point() != tensor.is_floating_point():
            raise IntegrityError(
                f"{path}: tensor {name} is {weights[name].dtype}, the model's is {tensor.dtype}", AGAIN_HINT
            )
        if tensor.is_floating_point() and not weights[name].isfinite().all():
            raise IntegrityError(f"{path}: tensor {name} has values that are not finite numbers", AGAIN_HINT)
    unknown = sorted(weights.keys() - expected.keys())
    if unknown:
        raise IntegrityError(
            f"{path}: tensor {unknown[0]} is not part of the model in config.json",
            "config.json and model.safetensors are of different models",
        )
    model.load_state_dict({name: w.to(expected[name].dtype) for name, w in weights.items()})


def save_checkpoint(
    folder: Path, config: TrainConfig, weights: dict[str, torch.Tensor], tokenizer: Tokenizer, notice: str
) -> None:
    """Write a checkpoint to `folder`, whole or not at all; an older one is replaced at the end.

    Raise the OSError of the system; an older checkpoint at `folder` is then unchanged.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=folder.name + ".", suffix=".tmp", dir=folder.parent))
    try:
        fresh.chmod(0o755)
        # Not by safetensors and tokenizers, which do not raise OSError for a full disk.
        write_atomic(fresh / "config.json", bytes_from_config(config))
        stored = dict(itertools.chain(*(_stored(name, weight) for name, weight in weights.items())))
        write_atomic(fresh / "model.safetensors", safetensors_bytes(stored))
        write_atomic(fresh / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
        write_atomic(fresh / "NOTICE", notice.encode())
        replace_folder(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _stored(name: str, weight: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Matrices on the int8 grid as int8 and scales; other matrices and kernels as float16."""
    weight = weight.detach()
    if uses_int8_grid(name, weight) and torch.equal(round_to_int8_grid(weight), weight):
        steps = int8_row_scales(weight)
        return [(name, (weight / steps).round().to(torch.int8).contiguous()), (name + SCALE, steps)]
    if weight.ndim >= 2 and weight.is_floating_point() and not name.startswith("codebook."):
        return [(name, weight.half().contiguous())]
    return [(name, weight.contiguous())]


def _unpacked(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights with int8 tensors multiplied by their scales; ValueError where the two do not fit."""
    found = {}
    for name, tensor in weights.items():
        if name.removesuffix(SCALE) in weights and name.endswith(SCALE):
            continue
        if tensor.dtype == torch.int8:
            scale = weights.get(name + SCALE)
            if scale is None or scale.dtype != torch.float32 or scale.shape != (*tensor.shape[:-1], 1):
                raise ValueError(
                    f"tensor {name} is int8, and {name + SCALE} is not a float32 scale for each row"
                )
            tensor = tensor.to(torch.float32) * scale
        found[name] = tensor
    return found
