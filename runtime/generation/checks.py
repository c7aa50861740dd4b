"""Checks that a manifest's declared inputs and loops describe a model that can run.

They import no manifest: its own module calls them when it is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from textual_vision.runtime.generation.specs import LabelSpec, LoopSpec, NoiseSpec, ParameterSpec
from textual_vision.runtime.noise import LAWS, STEP_LIMIT, TENSOR_LIMIT

NOISE_LIMIT_VALUES = 1 << 26  # of one tensor at one step: 256 MiB
LABELS_LIMIT = 1 << 16
LABEL_LIMIT_CHARACTERS = 200
PARAMETERS_LIMIT = 32
STEPS_LIMIT = 4096
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")

# Takes whether it holds, the field, and what is wrong with it.
Require = Callable[[object, str, str], None]


def check_noise(noise: Sequence[NoiseSpec], require: Require) -> None:
    """`require` that each noise tensor can be drawn."""
    require(len(noise) <= TENSOR_LIMIT, "manifest.noise", f"more than {TENSOR_LIMIT} tensors")
    require(len({spec.name for spec in noise}) == len(noise), "manifest.noise", "a name is given twice")
    for index, spec in enumerate(noise):
        where = f"manifest.noise[{index}]"
        require(_NAME.fullmatch(spec.name), f"{where}.name", "not a plain name")
        require(
            spec.recipe.isprintable() and 0 < len(spec.recipe) <= 100, f"{where}.recipe", "not a plain name"
        )
        require(spec.law in LAWS, f"{where}.law", f"not one of {', '.join(LAWS)}")
        good = spec.shape and all(size >= 1 for size in spec.shape) and len(spec.shape) <= 6
        require(good, f"{where}.shape", "not one to six positive sizes")
        values = math.prod(spec.shape)
        require(values <= NOISE_LIMIT_VALUES, f"{where}.shape", f"more than {NOISE_LIMIT_VALUES} values")
        require(0 < abs(spec.scale) < 1e6, f"{where}.scale", "not a sensible factor")
        truncated = spec.law == "truncated_normal"
        require((spec.tail is not None) == truncated, f"{where}.tail", "only a truncated_normal has one")
        require(spec.tail is None or 0 < spec.tail < 0.5, f"{where}.tail", "not between 0 and 0.5")


def check_labels(labels: LabelSpec | None, require: Require) -> None:
    """`require` plain, different names of classes."""
    if labels is None:
        return
    names = labels.names
    require(0 < len(names) <= LABELS_LIMIT, "manifest.labels.names", f"not 1 to {LABELS_LIMIT} names")
    require(len(set(names)) == len(names), "manifest.labels.names", "a name is given twice")
    for index, name in enumerate(names):
        good = name.isprintable() and 0 < len(name) <= LABEL_LIMIT_CHARACTERS
        require(good, f"manifest.labels.names[{index}]", "empty, too long or not printable")


def check_parameters(parameters: Sequence[ParameterSpec], require: Require) -> None:
    """`require` that each default lies within its bounds."""
    require(len(parameters) <= PARAMETERS_LIMIT, "manifest.parameters", f"more than {PARAMETERS_LIMIT}")
    names = {spec.name for spec in parameters}
    require(len(names) == len(parameters), "manifest.parameters", "a name is given twice")
    for index, spec in enumerate(parameters):
        where = f"manifest.parameters[{index}]"
        require(_NAME.fullmatch(spec.name), f"{where}.name", "not a plain name")
        numbers = (spec.minimum, spec.default, spec.maximum)
        ordered = all(map(math.isfinite, numbers)) and list(numbers) == sorted(numbers)
        require(ordered, where, "minimum <= default <= maximum does not hold")


def check_loops(
    loops: Sequence[LoopSpec],
    outputs: Mapping[str, set[str]],
    inputs: Mapping[str, set[str]],
    require: Require,
) -> None:
    """`require` that each loop's stages, carried tensors and tables exist; names of tensors by stage."""
    seen: set[str] = set()
    for index, loop in enumerate(loops):
        where = f"manifest.loops[{index}]"
        require(
            _NAME.fullmatch(loop.name) and loop.name not in outputs, f"{where}.name", "not a new plain name"
        )
        steps = f"not between 1 and {STEPS_LIMIT}"
        require(1 <= loop.steps <= min(STEPS_LIMIT, STEP_LIMIT), f"{where}.steps", steps)
        known = loop.stages and all(name in outputs and name not in seen for name in loop.stages)
        require(known, f"{where}.stages", "empty, unknown, or in two loops")
        seen |= set(loop.stages)
        given = set().union(*(outputs[name] for name in loop.stages))
        taken = set().union(*(inputs[name] for name in loop.stages))
        require(set(loop.carry) <= taken, f"{where}.carry", "a carried tensor is no input of the stages")
        require(
            set(loop.carry.values()) <= given, f"{where}.carry", "no stage of the loop gives a carried tensor"
        )
        require(set(loop.start) == set(loop.carry), f"{where}.start", "not one start for each carried tensor")
        for name, start in loop.start.items():
            one = (start.tensor is None) != (start.fill is None)
            require(one, f"{where}.start.{name!a}", "neither a tensor nor a number, or both")
        require(
            set(loop.tables) <= taken - set(loop.carry),
            f"{where}.tables",
            "a table is no input of the stages",
        )
        for name, table in loop.tables.items():
            good = len(table) == loop.steps and all(map(math.isfinite, table))
            require(good, f"{where}.tables.{name!a}", f"not {loop.steps} numbers")
