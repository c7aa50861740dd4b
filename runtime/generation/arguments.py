"""Prompts and seeds as callers give them, checked."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

import numpy as np

from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.specs import ParameterSpec
from textual_vision.runtime.noise import SEED_LIMIT

LIST_HINT = "give a list: list(...) makes one of a generator"


def prompt_from(value: object) -> str:
    """One prompt; UsageError when it is not a string."""
    if not isinstance(value, str):
        raise UsageError(f"a prompt of type {_type(value)}, not str", _prompt_hint(value))
    return value


def conditions_from(values: object) -> list[str | int]:
    """A list of prompts, or of labels by name or number; None is one empty condition."""
    if values is None:
        return [""]
    if isinstance(values, str):
        raise UsageError("one string where a list of prompts is expected", "write [prompt]")
    return [condition_from(value) for value in _items(values, "prompts")]


def condition_from(value: object) -> str | int:
    """One prompt or label; UsageError when it is neither a string nor an integer."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    return prompt_from(value)


def seeds_from(values: object) -> list[int]:
    """A list of seeds; UsageError when it is anything but a sequence of integers from 0 to 2⁶⁴−1."""
    if isinstance(values, int | np.integer) and not isinstance(values, bool):
        raise UsageError("one number where a list of seeds is expected", "write [seed]")
    return [seed_from(value) for value in _items(values, "seeds")]


def seed_from(value: object) -> int:
    """One seed, which may be NumPy's integer; UsageError otherwise."""
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise UsageError(f"a seed of type {_type(value)}, not int", "choose an integer, for example 7")
    seed = operator.index(value)
    if not 0 <= seed < SEED_LIMIT:
        raise UsageError(f"seed {seed} is not between 0 and {SEED_LIMIT - 1}", "choose another --seed")
    return seed


def parameters_from(values: object, specs: Sequence[ParameterSpec]) -> dict[str, float]:
    """The numbers that a caller sets, by name; UsageError for a name or a number that the model lacks."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise UsageError(f"parameters of type {_type(values)}, not a dict", 'write {"name": number}')
    known = {spec.name: spec for spec in specs}
    found = {}
    for name, value in values.items():
        if name not in known:
            hint = f"choose one of {', '.join(known)}" if known else "the model declares none"
            raise UsageError(f"no parameter {name!r}", hint)
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise UsageError(f"parameter {name!r} of type {_type(value)}, not a number", "give a number")
        spec = known[name]
        if not spec.minimum <= float(value) <= spec.maximum:
            problem = f"parameter {name!r} is {float(value):g}"
            raise UsageError(problem, f"choose between {spec.minimum:g} and {spec.maximum:g}")
        found[str(name)] = float(value)
    return found


def batch_size_from(value: object, largest: int) -> int:
    """How many pictures to compute at once; UsageError unless it is None or from 1 to `largest`."""
    if value is None:
        return largest
    if type(value) is not int or not 1 <= value <= largest:
        raise UsageError(f"a batch size of {value!r}", f"choose 1 to {largest}, the profile's maximum")
    return value


def check_counts(prompts: int, seeds: int) -> int:
    """The number of pictures; UsageError unless there are as many of one as of the other, or one of one."""
    count = max(prompts, seeds)
    if not prompts or not seeds or not {prompts, seeds} <= {1, count}:
        problem = f"{prompts} prompts and {seeds} seeds"
        raise UsageError(problem, "give as many of one as of the other, or one of one")
    return count


def _items(values: object, name: str) -> list[object]:
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return list(values)
    if isinstance(values, bytes | bytearray) or not isinstance(values, Sequence):
        raise UsageError(f"{name} of type {_type(values)}, not a list", LIST_HINT)
    return list(values)


def _type(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _prompt_hint(value: object) -> str:
    if isinstance(value, bytes):
        return 'decode it first: prompt.decode("utf-8")'
    if isinstance(value, list | tuple):
        return "several prompts are for generate(prompts, seeds)"
    return 'say what to draw, for example "dog wearing sunglasses"'
