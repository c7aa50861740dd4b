"""The order in which stages run, loops among them, for any function that runs a stage.

PyTorch's reference, the comparison of graphs and the runtime all run a model by this module, so that they
differ only in the function that runs one stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from textual_vision.runtime.backends.session import Array
from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.generation.specs import LoopSpec, NoiseSpec, ParameterSpec, StartSpec
from textual_vision.runtime.manifest import Manifest, StageSpec, TensorSpec
from textual_vision.runtime.noise import stream_of, values_from_words, words_from_seed

INPUT_IDS, ATTENTION_MASK, LENGTHS, LABEL = "input_ids", "attention_mask", "lengths", "label"
PROMPT_TENSORS = (INPUT_IDS, ATTENTION_MASK, LENGTHS, LABEL)
BATCH = "batch"  # the first dimension of every tensor
AGAIN_HINT = "export the bundle again"

# Gives the outputs of a stage, by name, from all known tensors; the number is the step of its loop.
StageRunner = Callable[[StageSpec, Mapping[str, Array], int], Mapping[str, Array]]
# Gives the noise tensors of a step.
StepNoise = Callable[[int], Mapping[str, Array]]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One stage, or a loop over several. `needs` are the tensors that it does not make itself."""

    stages: tuple[StageSpec, ...]
    needs: frozenset[str]
    gives: frozenset[str]
    loop: LoopSpec | None = None

    @property
    def name(self) -> str:
        """The loop's name, or the stage's."""
        return self.stages[0].name if self.loop is None else self.loop.name

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        """All inputs of the stages, by name."""
        return {spec.name: spec for stage in self.stages for spec in stage.inputs}

    @property
    def steps(self) -> int:
        """How many times the stages run."""
        return 1 if self.loop is None else self.loop.steps


@dataclass(frozen=True, kw_only=True)
class Program:
    """Stages in running order with their loops, noise and parameters: all that decides how a model runs."""

    stages: tuple[StageSpec, ...]
    noise: tuple[NoiseSpec, ...] = ()
    parameters: tuple[ParameterSpec, ...] = ()
    loops: tuple[LoopSpec, ...] = ()

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Stages and loops in running order."""
        return units_of(self.stages, self.loops)

    @cached_property
    def looped(self) -> frozenset[str]:
        """The names of the stages that run in a loop."""
        return frozenset(name for loop in self.loops for name in loop.stages)

    def start_tensors(self, seeds: Sequence[int]) -> dict[str, Array]:
        """Noise and parameters (their defaults) for one row for each seed."""
        rows = len(seeds)
        parameters = {one.name: np.full(rows, one.default, np.float32) for one in self.parameters}
        return {**noise_tensors(self.noise, seeds), **parameters}

    def run(
        self, tensors: Mapping[str, Array], run_stage: StageRunner, seeds: Sequence[int]
    ) -> dict[str, Array]:
        """All tensors by name, after every stage ran on `tensors`: condition, noise and parameters."""
        known = dict(tensors)
        for unit in self.units:
            known.update(run_unit(unit, known, run_stage, self.step_noise(seeds), len(seeds)))
        return known

    def step_noise(self, seeds: Sequence[int]) -> StepNoise:
        """The noise that a loop draws anew at each step."""
        return lambda step: noise_tensors(self.noise, seeds, step=step)


def program_from_manifest(manifest: Manifest) -> Program:
    """How the stages of a bundle run."""
    return Program(
        stages=manifest.stages, noise=manifest.noise, parameters=manifest.parameters, loops=manifest.loops
    )


def units_of(stages: Sequence[StageSpec], loops: Sequence[LoopSpec] = ()) -> tuple[Unit, ...]:
    """Stages and loops in running order. Raises IntegrityError when a loop's stages are not neighbors."""
    by_stage = {name: loop for loop in loops for name in loop.stages}
    units: list[Unit] = []
    index = 0
    while index < len(stages):
        loop = by_stage.get(stages[index].name)
        count = 1 if loop is None else len(loop.stages)
        members = tuple(stages[index : index + count])
        if loop is not None and tuple(stage.name for stage in members) != loop.stages:
            problem = f"loop {loop.name!r}: its stages {list(loop.stages)} do not follow each other"
            raise IntegrityError(problem, AGAIN_HINT)
        units.append(_unit(members, loop))
        index += count
    return tuple(units)


def _unit(stages: tuple[StageSpec, ...], loop: LoopSpec | None) -> Unit:
    needs: set[str] = set()
    gives: set[str] = set()
    for stage in stages:
        needs |= {spec.name for spec in stage.inputs} - gives
        gives |= {spec.name for spec in stage.outputs}
    if loop is not None:
        starts = {start.tensor for start in loop.start.values() if start.tensor is not None}
        needs = (needs - set(loop.carry) - set(loop.tables)) | starts
    return Unit(stages=stages, needs=frozenset(needs), gives=frozenset(gives), loop=loop)


def split_units(
    units: Sequence[Unit], noise: Sequence[NoiseSpec], parameters: Sequence[str] = ()
) -> tuple[list[Unit], list[Unit]]:
    """The units that depend on the condition alone, and those that need noise or a parameter.

    Raises IntegrityError when a unit needs a tensor that nothing before it gives.
    """
    by_condition, by_image = set(PROMPT_TENSORS), {spec.name for spec in noise} | set(parameters)
    first: list[Unit] = []
    second: list[Unit] = []
    for unit in units:
        if missing := unit.needs - by_condition - by_image:
            problem = f"manifest.stages: {unit.name!r} needs {min(missing)!r}, which no stage before it gives"
            raise IntegrityError(problem, AGAIN_HINT)
        _check_step_noise(unit, noise)
        alone = unit.needs <= by_condition
        (first if alone else second).append(unit)
        (by_condition if alone else by_image).update(unit.gives)
    return first, second


def _check_step_noise(unit: Unit, noise: Sequence[NoiseSpec]) -> None:
    """Noise that is drawn at each step is there within a loop's steps alone."""
    outside = unit.needs
    if unit.loop is not None:
        outside = frozenset(start.tensor for start in unit.loop.start.values() if start.tensor is not None)
    if found := outside & {spec.name for spec in noise if spec.per_step}:
        problem = (
            f"{min(found)!r} is drawn at each step, but {unit.name!r} takes it outside of a loop's steps"
        )
        raise IntegrityError(f"manifest.noise: {problem}", AGAIN_HINT)


def run_unit(
    unit: Unit, tensors: Mapping[str, Array], run_stage: StageRunner, step_noise: StepNoise, rows: int
) -> dict[str, Array]:
    """The outputs of the unit's stages, by name; of a loop those of its last step.

    `tensors` are all that is known, `rows` the batch size.
    """
    known = {**tensors, **start_of_unit(unit, tensors, rows)}
    for step in range(unit.steps):
        known.update(step_tensors(unit, step, step_noise, rows))
        for stage in unit.stages:
            known.update(run_stage(stage, known, step))
        if unit.loop is not None:
            known.update({name: known[source] for name, source in unit.loop.carry.items()})
    return {name: known[name] for name in unit.gives}


def start_of_unit(unit: Unit, tensors: Mapping[str, Array], rows: int) -> dict[str, Array]:
    """The tensors that a loop carries, before its first step."""
    if unit.loop is None:
        return {}
    inputs, start = unit.inputs, unit.loop.start
    return {name: _first_value(start[name], inputs[name], tensors, rows) for name in unit.loop.carry}


def step_tensors(unit: Unit, step: int, step_noise: StepNoise, rows: int) -> dict[str, Array]:
    """The noise and the values of the tables at a step of a loop."""
    if unit.loop is None:
        return {}
    tables = {
        name: _constant(unit.inputs[name], table[step], rows) for name, table in unit.loop.tables.items()
    }
    return {**step_noise(step), **tables}


def _first_value(start: StartSpec, spec: TensorSpec, known: Mapping[str, Array], rows: int) -> Array:
    if start.tensor is not None:
        return known[start.tensor]
    return _constant(spec, 0.0 if start.fill is None else start.fill, rows)


def _constant(spec: TensorSpec, value: float, rows: int) -> Array:
    """The tensor of `spec` that holds `value` everywhere."""
    shape = [rows if size == BATCH else size for size in spec.shape]
    if any(isinstance(size, str) for size in shape):
        problem = f"{spec.name!r} of shape {spec.shape} cannot begin with a number: only its batch may vary"
        raise IntegrityError(problem, AGAIN_HINT)
    return np.full([int(size) for size in shape], value, spec.dtype)


def noise_tensors(
    noise: Sequence[NoiseSpec], seeds: Sequence[int], *, step: int | None = None
) -> dict[str, Array]:
    """The noise of each seed, float32 (seeds, *shape), by name; `step` None is the noise outside of loops."""
    found: dict[str, Array] = {}
    for index, spec in enumerate(noise):
        if spec.per_step == (step is not None):
            stream = stream_of(index, step or 0)
            count = int(np.prod(spec.shape))
            rows = [words_from_seed(seed, 1, count, stream) for seed in seeds]
            values = values_from_words(np.concatenate(rows), spec.law, tail=spec.tail)
            scaled = values if spec.scale == 1.0 else values * np.float32(spec.scale)
            found[spec.name] = scaled.reshape(len(seeds), *spec.shape)
    return found
