"""The declared inputs of a model besides its stages: noise, labels, parameters, and loops over stages."""

from __future__ import annotations

from dataclasses import dataclass, field

from textual_vision.runtime.noise import RECIPE


@dataclass(frozen=True, kw_only=True)
class NoiseSpec:
    """One float32 noise tensor (batch, *shape), drawn by `recipe` (see `textual_vision.runtime.noise`).

    `law` is one of `noise.LAWS`; values are multiplied by `scale`. `tail` is the probability below the lower
    bound of a `truncated_normal`, None for other laws. `per_step` draws the tensor anew at each step of a
    loop.
    """

    name: str = "noise"
    shape: tuple[int, ...]
    recipe: str = RECIPE
    law: str = "normal"
    scale: float = 1.0
    tail: float | None = None
    per_step: bool = False


@dataclass(frozen=True, kw_only=True)
class LabelSpec:
    """The classes of a class-conditional model; its input `label`, int64 (batch,), is an index of `names`."""

    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ParameterSpec:
    """A number that a caller may set, such as a guidance scale; its tensor is float32 (batch,)."""

    name: str
    default: float
    minimum: float
    maximum: float


@dataclass(frozen=True, kw_only=True)
class StartSpec:
    """A carried tensor before the first step: the tensor called `tensor`, or everywhere the number `fill`."""

    tensor: str | None = None
    fill: float | None = None


@dataclass(frozen=True, kw_only=True)
class LoopSpec:
    """Neighboring `stages` that run `steps` times.

    `carry` maps an input of theirs to the output that takes its place at the next step; `start` gives its
    first value. `tables` maps an input (batch,) to its value at each step, such as timesteps. After the loop
    their outputs are those of the last step.
    """

    name: str
    stages: tuple[str, ...]
    steps: int
    carry: dict[str, str]
    start: dict[str, StartSpec]
    tables: dict[str, tuple[float, ...]] = field(default_factory=dict)
