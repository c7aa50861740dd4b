"""State dicts of published checkpoints, read without executing anything."""

from __future__ import annotations

import difflib
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from textual_vision.runtime.errors import IntegrityError, UsageError

PARALLEL_PREFIX = "module."  # nn.DataParallel puts it before every key
SHOWN_KEYS = 3
UNPICKLER_ERROR = "WeightsUnpickler error:"  # in torch's message

State = dict[str, Tensor]


def read_checkpoint(path: Path) -> object:
    """The object that `torch.save` wrote to `path`; only tensors and plain containers are admitted.

    Raises UsageError when there is no such file, IntegrityError when it is truncated, tampered with or holds
    anything else: nothing in it is executed.
    """
    if not path.is_file():
        raise UsageError(f"no file {path}", "give the path of the weights")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*TorchScript archive", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        problem = f"{path} holds more than tensors and plain containers: {_reason(error)}"
        hint = "save its state dict alone: torch.save(model.state_dict(), path)"
        raise IntegrityError(problem, hint) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        problem = f"{path} cannot be read as a PyTorch checkpoint: {_reason(error)}"
        raise IntegrityError(problem, "download it again") from None


def _reason(error: Exception) -> str:
    text = str(error)
    if UNPICKLER_ERROR in text:  # what comes before it advises to trust the file
        text = text.partition(UNPICKLER_ERROR)[2]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def state_from_checkpoint(value: object, *, inside: Sequence[str] = (), prefix: str = "") -> State:
    """The state dict of a checkpoint, looked for inside the nested keys `inside`.

    `prefix` selects keys and is removed from them. Raises UsageError when no state dict is there.
    """
    for key in inside:
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
    if not isinstance(value, Mapping) or not any(isinstance(item, Tensor) for item in value.values()):
        found = ", ".join(map(str, list(value)[:8])) if isinstance(value, Mapping) else type(value).__name__
        raise UsageError(
            f"no state dict among {found}", "give a checkpoint as the family's own code saves it"
        )
    state = {str(key): item for key, item in value.items() if isinstance(item, Tensor)}
    if all(key.startswith(PARALLEL_PREFIX) for key in state):
        state = {key.removeprefix(PARALLEL_PREFIX): item for key, item in state.items()}
    return {key.removeprefix(prefix): item for key, item in state.items() if key.startswith(prefix)}


def load_state(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load `state` into `module` as float32; raises IntegrityError that names each key that does not fit.

    A missing key is named with the nearest key of the state, an extra key with the nearest of the module.
    """
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in wanted]
    if missing or extra:
        problem = "; ".join(filter(None, (_listed("lacks", missing, extra), _listed("has", extra, missing))))
        raise IntegrityError(f"{name}: the state dict {problem}", "check that --family names its system")
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            found, expected = tuple(tensor.shape), tuple(wanted[key].shape)
            raise IntegrityError(f"{name}: {key} is {found}, expected {expected}", "give matching weights")
    module.load_state_dict({key: _as(tensor, wanted[key]) for key, tensor in state.items()}, strict=False)


def _as(tensor: Tensor, wanted: Tensor) -> Tensor:
    return tensor.to(wanted.dtype)


def _listed(verb: str, keys: list[str], others: list[str]) -> str:
    if not keys:
        return ""
    shown = []
    for key in keys[:SHOWN_KEYS]:
        near = difflib.get_close_matches(key, others, 1)
        shown.append(f"{key!r} (nearest: {near[0]!r})" if near else repr(key))
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return f"{verb} {', '.join(shown)}{more}"


def size_of(state: Mapping[str, Tensor], key: str, axis: int) -> int:
    """The size of an axis of the tensor called `key`; raises IntegrityError when it is not there."""
    if key not in state or state[key].dim() <= axis:
        near = difflib.get_close_matches(key, list(state), 1)
        meant = f"; the nearest key is {near[0]!r}" if near else ""
        raise IntegrityError(f"the state dict lacks {key!r}{meant}", "check that --family names its system")
    return int(state[key].shape[axis])
