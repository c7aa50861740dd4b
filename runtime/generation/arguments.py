"""Prompts and seeds as callers give them, checked."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.noise import SEED_LIMIT

LIST_HINT = "give a list: list(...) makes one of a generator"


def prompt_from(value: object) -> str:
    """One prompt; UsageError when it is not a string."""
    if not isinstance(value, str):
        raise UsageError(f"a prompt of type {_type(value)}, not str", _prompt_hint(value))
    return value


def prompts_from(values: object) -> list[str]:
    """A list of prompts; UsageError when it is anything but a sequence of strings."""
    if isinstance(values, str):
        raise UsageError("one string where a list of prompts is expected", "write [prompt]")
    return [prompt_from(value) for value in _items(values, "prompts")]


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
