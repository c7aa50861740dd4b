"""Watch every operator of a forward: random numbers that it draws, and NaN that turns into integers."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from textual_vision.export.model.user_code import is_user_file
from textual_vision.runtime.errors import UsageError

TORCH = str(Path(torch.__file__).parent)
TRAIN_HINT = "call .eval() on the module; in code of your own pass training=self.training"
NOISE_HINT = "take the input `noise` instead: standard normals from the picture's seed"
NAN_HINT = "look for a division by zero, log or sqrt of a negative number there, or a diverged checkpoint"
FLOW_HINT = "choose between values with torch.where"
DTYPE_HINT = "leave out torch.autocast and .bfloat16(); for half precision build with --precision fp16"
UNSUPPORTED_DTYPES = ("bfloat16", "float8")
ACT_OTHERWISE = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase, nn.RReLU, nn.RNNBase)


class OperatorWatch(TorchDispatchMode):
    """In it, a stage's forward raises UsageError where it draws random numbers or loses a NaN."""

    supports_higher_order_operators = True

    def __init__(self, stage: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stage = stage

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs the operator."""
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            raise self._control_flow(func)
        seeded = torch.Tag.nondeterministic_seeded in func.tags
        state = torch.get_rng_state() if seeded else None
        found = func(*args, **kwargs)
        own = any(isinstance(one, torch.Generator) for one in (*args, *kwargs.values()))
        if state is not None and (own or not torch.equal(state, torch.get_rng_state())):
            raise self._random(func)
        if (dtype := _unsupported_dtype(found)) is not None:
            name, place = _operator_and_place(func)
            problem = f"stage {self._stage!r} computes in {dtype} ({name}{place})"
            raise UsageError(problem, DTYPE_HINT)
        if _is_integers(found) and any(_has_nan(one) for one in args):
            self._check_nan(func)
        return found

    def _random(self, func: Any) -> UsageError:
        name, place = _operator_and_place(func)
        problem = f"stage {self._stage!r} draws random numbers by itself ({name}{place})"
        return UsageError(problem, TRAIN_HINT if "dropout" in name or name == "rrelu" else NOISE_HINT)

    def _control_flow(self, func: Any) -> UsageError:
        _, place = _operator_and_place(func)
        problem = f"stage {self._stage!r} has control flow ({func.name()}{place}): a bundle may not hold it"
        return UsageError(problem, FLOW_HINT)

    def _check_nan(self, func: Any) -> None:
        name, place = _operator_and_place(func)
        if name not in ("isnan", "isfinite"):
            raise UsageError(f"stage {self._stage!r} turns NaN into integers ({name}{place})", NAN_HINT)


def check_other_random(stage: str, run: Callable[[], object]) -> None:
    """Calls `run`; UsageError when it draws from Python's or numpy's random numbers, which a graph cannot."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    run()
    for name, before, after in (
        ("Python's random", repr(python), repr(random.getstate())),
        ("numpy.random", repr(numpy), repr(np.random.get_state(legacy=False))),
    ):
        if before != after:
            raise UsageError(f"stage {stage!r} draws random numbers by itself ({name})", NOISE_HINT)


def train_mode_module(module: nn.Module) -> str | None:
    """A module that is in train mode, preferably one that acts otherwise then, by its class and path."""
    found = [(path, one) for path, one in module.named_modules() if one.training]
    ordered = sorted(found, key=lambda one: not isinstance(one[1], ACT_OTHERWISE))
    if not ordered:
        return None
    path, one = ordered[0]
    return f"{type(one).__name__} {path!r}" if path else type(one).__name__


def _unsupported_dtype(found: Any) -> str | None:
    """A type of the values that backends do not compute in."""
    values = found if isinstance(found, (tuple, list)) else (found,)
    named = {str(one.dtype).removeprefix("torch.") for one in values if isinstance(one, Tensor)}
    return next((dtype for dtype in sorted(named) if dtype.startswith(UNSUPPORTED_DTYPES)), None)


def _is_integers(found: Any) -> bool:
    values = found if isinstance(found, (tuple, list)) else (found,)
    kinds = (torch.uint8, torch.int8, torch.int32, torch.int64)
    return any(isinstance(one, Tensor) and one.dtype in kinds for one in values)


def _has_nan(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and bool(value.isnan().any())


def _operator_and_place(func: Any) -> tuple[str, str]:
    """The operator by the name that a user knows, and ` at FILE:LINE` of the user's code that calls it."""
    name = func.overloadpacket.__name__.removesuffix("_") if hasattr(func, "overloadpacket") else func.name()
    frame: FrameType | None = sys._getframe(2)
    library = ""
    while frame is not None:
        file, line = frame.f_code.co_filename, frame.f_lineno
        if file == str(Path(TORCH) / "nn" / "functional.py"):
            name = frame.f_code.co_name
        elif file.startswith(TORCH) or file == __file__:
            pass
        elif is_user_file(file):
            return name, f" at {Path(file).name}:{line}"
        elif not library and "site-packages" in file:
            library = f" at {Path(file).name}:{line}"
        frame = frame.f_back
    return name, library
