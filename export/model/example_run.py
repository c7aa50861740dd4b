"""Names, dtypes and shapes of a model's tensors, read from two runs of its modules on small inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from textual_vision.export.model.batch import BATCH, PICTURE_AXES, TOKENS
from textual_vision.export.model.calling import outputs_by_name
from textual_vision.export.model.image_output import PixelModule
from textual_vision.export.model.user_code import user_errors
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.program import ATTENTION_MASK, INPUT_IDS, LABEL, LENGTHS, noise_tensors
from textual_vision.runtime.generation.specs import LoopSpec, NoiseSpec, ParameterSpec
from textual_vision.runtime.manifest import StageSpec, TensorSpec

HINT = "see docs/how-to/custom-model.md"
IMAGE, MORE_IMAGES = "image", "image_"
ROWS = (2, 4)  # of the two runs; numbers of tokens differ by 1, so that no axis can be taken for another
WRONG_RANGE_SHARE = 0.2  # of values below the range: a picture in [-1, 1] that is declared as [0, 1]

Pair = tuple[Tensor, Tensor]  # one tensor in both runs
Carried = Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, kw_only=True)
class ExampleInputs:
    """What the stages of a model may take; `largest_id` and `max_tokens` where it takes a prompt.

    `carried` gives dtype and shape, without the batch, of tensors that a loop begins with a number.
    """

    noise: tuple[NoiseSpec, ...] = ()
    parameters: tuple[ParameterSpec, ...] = ()
    loops: tuple[LoopSpec, ...] = ()
    classes: int | None = None
    largest_id: int | None = None
    max_tokens: int = 0
    fixed_length: bool = False
    carried: Carried = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExampleStage:
    """One stage as the runs showed it; `module` gives pixels where it gave a float picture."""

    spec: StageSpec
    module: nn.Module


@torch.no_grad()
def stages_from_modules(
    modules: Mapping[str, nn.Module],
    given: ExampleInputs,
    *,
    inputs: Mapping[str, Sequence[str]],
    outputs: Mapping[str, Sequence[str]],
    image_range: tuple[float, float] | None,
    rounding: str,
) -> tuple[ExampleStage, ...]:
    """Return the stages of `modules`, which run in their order; raises UsageError that says what to write."""
    _check_names("inputs", inputs, modules)
    _check_names("outputs", outputs, modules)
    known = _given_tensors(given)
    specs = _given_specs(given)
    found = []
    for name, module in modules.items():
        _enter_loop(name, given, known, specs)
        taken = input_names(name, module, list(known), inputs.get(name))
        values = _run(name, module, [known[one] for one in taken])
        last = name == list(modules)[-1]
        named = _named_outputs(name, values, outputs.get(name), last)
        converted, named = _with_pixels(name, module, named, image_range, rounding)
        stage = StageSpec(
            name=name,
            inputs=tuple(specs[one] for one in taken),
            outputs=tuple(_spec_of(name, one, pair, given.max_tokens) for one, pair in named.items()),
        )
        found.append(ExampleStage(spec=stage, module=converted))
        known.update(named)
        specs.update({one.name: one for one in stage.outputs})
    return tuple(found)


def _check_names(what: str, found: Mapping[str, object], modules: Mapping[str, nn.Module]) -> None:
    if unknown := [name for name in found if name not in modules]:
        problem = f"{what} names {unknown[0]!r}; the modules are {', '.join(map(repr, modules))}"
        raise UsageError(problem, f"use the modules' names as keys; {HINT}")


def input_names(
    stage: str, module: nn.Module, known: Sequence[str], chosen: Sequence[str] | None
) -> tuple[str, ...]:
    """The tensors that `forward` takes: `chosen`, or its arguments' names where they are known ones.

    Arguments with a default that nothing gives are left out. Raises UsageError for any other argument.
    """
    have = f"there are {', '.join(known)}" if known else "there are none"
    if chosen is not None:
        if missing := [one for one in chosen if one not in known]:
            problem = f"stage {stage!r}: inputs names {missing[0]!r}, which nothing before it gives; {have}"
            raise UsageError(problem, HINT)
        return tuple(chosen)
    taken: list[str] = []
    for argument in inspect.signature(module.forward).parameters.values():
        if argument.name in known:
            taken.append(argument.name)
        elif argument.kind is argument.VAR_KEYWORD or argument.default is not argument.empty:
            break
        else:
            problem = f"stage {stage!r}: forward takes {argument.name!r}, which nothing gives; {have}"
            raise UsageError(
                problem, f'rename the argument, or say inputs={{"{stage}": (…)}} in its order; {HINT}'
            )
    return tuple(taken)


def _given_tensors(given: ExampleInputs) -> dict[str, Pair]:
    found: list[dict[str, Tensor]] = []
    for rows, tokens in zip(ROWS, (max(1, given.max_tokens - 1), given.max_tokens), strict=True):
        arrays = dict(noise_tensors(given.noise, range(rows)))
        arrays |= {one.name: np.full(rows, one.default, np.float32) for one in given.parameters}
        tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
        if given.classes is not None:
            tensors[LABEL] = torch.arange(rows) % given.classes
        if given.largest_id is not None:
            length = given.max_tokens if given.fixed_length else tokens
            ids = torch.arange(rows * length) % (given.largest_id + 1)
            tensors[INPUT_IDS] = ids.view(rows, length)
            tensors[ATTENTION_MASK] = torch.ones_like(tensors[INPUT_IDS])
            tensors[LENGTHS] = torch.full((rows,), length)
        found.append(tensors)
    return {name: (found[0][name], found[1][name]) for name in found[0]}


def _given_specs(given: ExampleInputs) -> dict[str, TensorSpec]:
    found = {one.name: _tensor(one.name, "float32", BATCH, *one.shape) for one in given.noise}
    found |= {one.name: _tensor(one.name, "float32", BATCH) for one in given.parameters}
    found[LABEL], found[LENGTHS] = _tensor(LABEL, "int64", BATCH), _tensor(LENGTHS, "int64", BATCH)
    found |= {name: _tensor(name, "int64", BATCH, TOKENS) for name in (INPUT_IDS, ATTENTION_MASK)}
    return found


def _tensor(name: str, dtype: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _enter_loop(
    stage: str, given: ExampleInputs, known: dict[str, Pair], specs: dict[str, TensorSpec]
) -> None:
    """Add what a loop gives its stages at the first step, when `stage` is its first."""
    for loop in given.loops:
        if not loop.stages or loop.stages[0] != stage:
            continue
        for one in given.noise:
            if one.per_step:
                values = [noise_tensors([one], range(rows), step=0)[one.name] for rows in ROWS]
                known[one.name] = (torch.from_numpy(values[0]), torch.from_numpy(values[1]))
        for name, table in loop.tables.items():
            dtype = "int64" if all(type(value) is int for value in table) else "float32"
            _add_constant(_tensor(name, dtype, BATCH), table[0] if table else 0, known, specs)
        for name, start in loop.start.items():
            if start.tensor is None:
                _add_constant(_carried_spec(loop, name, given.carried), start.fill or 0, known, specs)
            elif start.tensor in known:
                known[name] = known[start.tensor]
                specs[name] = TensorSpec(
                    name=name, dtype=specs[start.tensor].dtype, shape=specs[start.tensor].shape
                )


def _carried_spec(loop: LoopSpec, name: str, carried: Carried) -> TensorSpec:
    if name not in carried:
        problem = f"loop {loop.name!r} begins {name!r} with a number, and its shape is not known"
        raise UsageError(problem, f'say carried={{"{name}": ("int64", (16, 16))}}, without the batch; {HINT}')
    dtype, shape = carried[name]
    return _tensor(name, dtype, BATCH, *shape)


def _add_constant(
    spec: TensorSpec, value: float, known: dict[str, Pair], specs: dict[str, TensorSpec]
) -> None:
    shape = [int(size) for size in spec.shape[1:]]
    dtype = getattr(torch, spec.dtype)
    known[spec.name] = (
        torch.full((ROWS[0], *shape), value, dtype=dtype),
        torch.full((ROWS[1], *shape), value, dtype=dtype),
    )
    specs[spec.name] = spec


def _run(stage: str, module: nn.Module, pairs: Sequence[Pair]) -> tuple[object, object]:
    with user_errors(f"stage {stage!r} on example inputs"):
        small = module(*(pair[0].clone() for pair in pairs))
        return small, module(*(pair[1].clone() for pair in pairs))


def _named_outputs(
    stage: str, values: tuple[object, object], chosen: Sequence[str] | None, last: bool
) -> dict[str, Pair]:
    first = values[0]
    if chosen is None and isinstance(first, Mapping):
        chosen = [str(name) for name in first]
    if chosen is None:
        count = len(first) if isinstance(first, (tuple, list)) else 1
        if count != 1:
            example = ", ".join(f'"name_{number}"' for number in range(count))
            hint = f'say outputs={{"{stage}": ({example})}}; the picture is called "image"; {HINT}'
            raise UsageError(f"stage {stage!r} returns {count} outputs without names", hint)
        chosen = [IMAGE if last else stage]
    spec = StageSpec(name=stage, inputs=(), outputs=tuple(_tensor(name, "", BATCH) for name in chosen))
    small, large = (outputs_by_name(spec, value) for value in values)
    return {name: (small[name], large[name]) for name in chosen}


def _with_pixels(
    stage: str,
    module: nn.Module,
    named: dict[str, Pair],
    image_range: tuple[float, float] | None,
    rounding: str,
) -> tuple[nn.Module, dict[str, Pair]]:
    """The module that gives pixels in place of float pictures, and its outputs."""
    pictures = [name for name in named if name == IMAGE or name.startswith(MORE_IMAGES)]
    floats = [name for name in pictures if named[name][0].is_floating_point()]
    if not floats:
        return module, named
    if image_range is None:
        low, high = (float(value) for value in torch.aminmax(named[floats[0]][1]))
        problem = f"stage {stage!r} gives {floats[0]!r} as floats, here from {low:.2f} to {high:.2f}"
        raise UsageError(problem, f"say image_range=(-1, 1), (0, 1) or (0, 255); {HINT}")
    names = list(named)
    pixels = PixelModule(
        module, image_range, indices=tuple(names.index(name) for name in floats), rounding=rounding
    )
    pixels.train(module.training)
    for name in floats:
        _check_picture(stage, name, named[name][1], image_range)
        small, large = (pixels.pixels(value) for value in named[name])
        named = {**named, name: (small, large)}
    return pixels, named


def _check_picture(stage: str, name: str, picture: Tensor, image_range: tuple[float, float]) -> None:
    shape = tuple(picture.shape)
    gray = picture.dim() == PICTURE_AXES - 1
    if not gray and (picture.dim() != PICTURE_AXES or shape[1] not in (1, 3)):
        problem = f"stage {stage!r} gives {name!r} of shape {shape}, not (batch, 3 or 1, height, width)"
        raise UsageError(problem, f"return the picture with its channels first; {HINT}")
    low, high = image_range
    below = float((picture < low - 0.01 * (high - low)).float().mean())
    found = f"{float(picture.min()):.2f} to {float(picture.max()):.2f}"
    if below > WRONG_RANGE_SHARE:
        problem = f"stage {stage!r}: {below:.0%} of {name!r} lies below image_range {image_range}: {found}"
        raise UsageError(problem, "a picture that ends in tanh has image_range=(-1, 1)")
    if high > 2 and float(picture.max()) <= 1:
        problem = f"stage {stage!r}: {name!r} is black in image_range {image_range}: its values are {found}"
        raise UsageError(problem, "say image_range=(0, 1), or (-1, 1) after tanh")


def _spec_of(stage: str, name: str, pair: Pair, max_tokens: int) -> TensorSpec:
    small, large = (tuple(value.shape) for value in pair)
    dtype = str(pair[0].dtype).removeprefix("torch.")
    if len(small) != len(large):
        raise UsageError(f"stage {stage!r}: {name!r} has {len(small)} axes or {len(large)}", HINT)
    open_sizes = {ROWS: BATCH, (max_tokens - 1, max_tokens): TOKENS}
    shape: list[int | str] = []
    for axis, sizes in enumerate(zip(small, large, strict=True)):
        size = sizes[0] if sizes[0] == sizes[1] else open_sizes.get(sizes)
        if size is None:
            problem = f"stage {stage!r}: axis {axis} of {name!r} is {sizes[0]} or {sizes[1]}"
            detail = f"for {ROWS[0]} or {ROWS[1]} pictures of {max_tokens - 1} or {max_tokens} tokens"
            raise UsageError(
                f"{problem} {detail}", f"an axis is the batch, the tokens, or of one size; {HINT}"
            )
        shape.append(size)
    return _tensor(name, dtype, *shape)
