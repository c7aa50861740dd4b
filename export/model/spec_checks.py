"""What a StagedModel says of itself, checked before anything runs: names, types, shapes, tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import nn

from textual_vision.export.model.batch import BATCH, PICTURE_AXES, STEP, TOKENS
from textual_vision.export.model.stage import Stage, StagedModel, tensor
from textual_vision.export.results import MERGED
from textual_vision.runtime.errors import TextualVisionError, UsageError
from textual_vision.runtime.generation.checks import check_labels, check_loops, check_noise, check_parameters
from textual_vision.runtime.generation.program import ATTENTION_MASK, INPUT_IDS, LABEL, LENGTHS
from textual_vision.runtime.manifest import (
    DTYPES,
    SIZE_LIMIT,
    ImageSpec,
    StageSpec,
    TensorSpec,
    TextSpec,
    is_plain_name,
)
from textual_vision.runtime.text.tokenizer import Tokenizer

HINT = "see docs/how-to/custom-model.md"
CODE_DTYPES = ("int64",)
CHANNELS = (3, 1)  # of a picture: RGB or grayscale
TEXTS = ("name", "license", "notice", "digest")
LINES = ("name", "license", "digest")  # shown on one line


def normalized_model(model: StagedModel) -> StagedModel:
    """The model with tuples where its author may have written lists; raises UsageError for other types."""
    stages = []
    for stage in _sequence("StagedModel.stages", model.stages):
        if not isinstance(stage, Stage) or not isinstance(stage.spec, StageSpec):
            raise UsageError(f"StagedModel.stages holds a {type(stage).__name__}, not a Stage", HINT)
        module: object = stage.module
        if not isinstance(module, nn.Module):
            problem = f"stage {stage.name!r}: its module is a {type(module).__name__}, not an nn.Module"
            raise UsageError(problem, f"give an instance of a subclass of torch.nn.Module; {HINT}")
        stages.append(dataclasses.replace(stage, spec=_normalized_spec(stage.spec)))
    return dataclasses.replace(model, stages=tuple(stages), image=_normalized_image(model.image, stages))


def _normalized_image(image: ImageSpec, stages: Sequence[Stage]) -> ImageSpec:
    """The picture's description with the channels that the stage says: its own are RGB by default."""
    for one in (one for stage in stages for one in stage.spec.outputs):
        if one.name == "image" and len(one.shape) == PICTURE_AXES and one.shape[3] in CHANNELS:
            return dataclasses.replace(image, channels=int(one.shape[3]))
    return image


def _normalized_spec(spec: StageSpec) -> StageSpec:
    sides: dict[str, Any] = {}
    for side in ("inputs", "outputs"):
        found = _sequence(f"stage {spec.name!r}: {side}", getattr(spec, side))
        for one in found:
            if not isinstance(one, TensorSpec):
                problem = f"stage {spec.name!r}: {side} holds a {type(one).__name__}, not a TensorSpec"
                raise UsageError(problem, f'write tensor("text", "float32", "batch", "tokens", 32); {HINT}')
        sides[side] = tuple(dataclasses.replace(one, shape=tuple(one.shape)) for one in found)
    return dataclasses.replace(spec, **sides)


def _sequence(what: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, (tuple, list)) or not value:
        found = "nothing" if isinstance(value, (tuple, list)) else f"a {type(value).__name__}"
        raise UsageError(f"{what}: {found}", f"give a tuple with at least one entry; {HINT}")
    return value


def check_specs(model: StagedModel) -> None:
    """UsageError, which names the stage and the tensor, where the model's description cannot hold."""
    _check_texts(model)
    _check_sizes(model)
    _check_stage_names(model)
    _check_declarations(model)
    known = dict(_given_tensors(model))
    for stage in model.stages:
        for one in (*stage.spec.inputs, *stage.spec.outputs):
            _check_tensor(stage.name, one)
        for one in stage.spec.inputs:
            _check_input(stage.name, one, known)
        _check_outputs(stage.name, stage.spec.outputs, known)
        known |= {one.name: one for one in stage.spec.outputs}
    _check_codes(known)
    _check_image(model, known)
    _check_tables(model, known)
    if model.text is not None:
        _check_tokenizer(model.tokenizer, model.text)


def _check_texts(model: StagedModel) -> None:
    for name in TEXTS:
        value = getattr(model, name)
        if not isinstance(value, str):
            raise UsageError(f"StagedModel.{name} is a {type(value).__name__}, not a str", HINT)
        if name in LINES and not value.isprintable():
            raise UsageError(f"StagedModel.{name}: {value[:40]!a} cannot be printed on one line", HINT)
    if not model.digest:
        raise UsageError("StagedModel.digest is empty", f"give the SHA-256 of the weights' file; {HINT}")


def _check_sizes(model: StagedModel) -> None:
    text, image = model.text, model.image
    sizes: dict[str, tuple[object, int]] = {
        "image.height": (image.height, 1),
        "image.width": (image.width, 1),
    }
    if text is not None:
        sizes |= {
            "text.max_tokens": (text.max_tokens, 1),
            "text.pad_id": (text.pad_id, 0),
            "text.unknown_id": (0 if text.unknown_id is None else text.unknown_id, 0),
        }
    for name, (value, lowest) in sizes.items():
        if type(value) is not int or not lowest <= value <= SIZE_LIMIT:
            raise UsageError(f"StagedModel.{name} is {value!r}", f"give a whole number from {lowest} on")


def _check_stage_names(model: StagedModel) -> None:
    seen: set[str] = set()
    for stage in model.stages:
        name = stage.name
        if not is_plain_name(name):
            raise UsageError(f"the stage {name!a} has no plain name", "use letters, digits, _, . and -")
        if name.casefold() == MERGED:
            raise UsageError(f"a stage is called {name!r}, the name of the merged graph", "choose another")
        if name.casefold() in seen:
            raise UsageError(f"two stages are called {name!r}", "each needs a name of its own")
        seen.add(name.casefold())


def _check_declarations(model: StagedModel) -> None:
    """Noise, labels, parameters and loops, by the checks that the manifest will go through."""

    def require(holds: object, where: str, problem: str) -> None:
        if not holds:
            raise UsageError(f"StagedModel.{where.removeprefix('manifest.')}: {problem}", HINT)

    check_noise(model.noise, require)
    check_labels(model.labels, require)
    check_parameters(model.parameters, require)
    outputs = {stage.name: {one.name for one in stage.spec.outputs} for stage in model.stages}
    inputs = {stage.name: {one.name for one in stage.spec.inputs} for stage in model.stages}
    check_loops(model.loops, outputs, inputs, require)
    if model.text is not None and model.labels is not None:
        raise UsageError("StagedModel has both text and labels", "a model is conditioned on one of them")


def _given_tensors(model: StagedModel) -> dict[str, TensorSpec]:
    """The tensors that the model is given, by name: condition, noise, parameters, and those of its loops."""
    given: list[TensorSpec] = []
    if model.text is not None:
        given += [tensor(name, "int64", BATCH, TOKENS) for name in (INPUT_IDS, ATTENTION_MASK)]
        given.append(tensor(LENGTHS, "int64", BATCH))
    if model.labels is not None:
        given.append(tensor(LABEL, "int64", BATCH))
    given += [tensor(one.name, "float32", BATCH, *one.shape) for one in model.noise]
    given += [tensor(one.name, "float32", BATCH) for one in model.parameters]
    inputs = {one.name: one for stage in model.stages for one in stage.spec.inputs}
    given += [inputs[name] for loop in model.loops for name in (*loop.carry, *loop.tables)]
    return {one.name: one for one in given}


def _check_tensor(stage: str, one: TensorSpec) -> None:
    where = f"stage {stage!r}: the tensor {one.name!a}"
    if not is_plain_name(one.name) or one.name.endswith(STEP):
        raise UsageError(f"{where} has no plain name", "use letters, digits, _, . and -; begin with a letter")
    if one.dtype not in DTYPES:
        raise UsageError(f"{where} is of type {one.dtype!r}", f"choose one of: {', '.join(DTYPES)}")
    for size in one.shape:
        if size not in (BATCH, TOKENS) and not (type(size) is int and 1 <= size <= SIZE_LIMIT):
            hint = f'give a number of 1 or more, "{BATCH}" or "{TOKENS}"'
            raise UsageError(f"{where} has the size {size!r} in its shape {_shown(one)}", hint)
    if one.shape[:1] != (BATCH,) or BATCH in one.shape[1:]:
        hint = f'put "{BATCH}" first; keep what is the same for all prompts inside the modules'
        raise UsageError(f"{where} is {_shown(one)}: not one row for each prompt", hint)


def _check_input(stage: str, one: TensorSpec, known: dict[str, TensorSpec]) -> None:
    if one.name not in known:
        problem = f"stage {stage!r} takes {one.name!r}, which no stage before it gives"
        raise UsageError(problem, f"known there: {', '.join(known)}")
    if (one.dtype, one.shape) != ((given := known[one.name]).dtype, given.shape):
        problem = f"stage {stage!r} takes {one.name!r} as {_shown(one)}, but it is {_shown(given)}"
        raise UsageError(problem, "both specs must say what the tensor is")


def _check_outputs(stage: str, outputs: Sequence[TensorSpec], known: dict[str, TensorSpec]) -> None:
    seen = dict(known)
    for one in outputs:
        if one.name in seen:
            problem = f"stage {stage!r} gives {one.name!r}, a name that another tensor has"
            raise UsageError(problem, "give every tensor a name of its own")
        seen[one.name] = one


def _check_codes(known: dict[str, TensorSpec]) -> None:
    codes = known.get("codes")
    if codes is not None and (
        codes.dtype not in CODE_DTYPES or len(codes.shape) != 3 or TOKENS in codes.shape
    ):
        problem = f"'codes' is {_shown(codes)}, not int64 (batch, rows, columns)"
        raise UsageError(problem, f"give the grid of integers that the picture is generated from; {HINT}")
    words = known.get("text_codes")
    if words is not None and words.dtype not in CODE_DTYPES:
        raise UsageError(f"'text_codes' is {_shown(words)}, not integers", "call it otherwise")


def _check_image(model: StagedModel, known: dict[str, TensorSpec]) -> None:
    image, size = known.get("image"), (model.image.height, model.image.width)
    wanted = f"uint8 (batch, {size[0]}, {size[1]}, 3), or 1 for grayscale"
    if image is None:
        raise _missing("image", wanted, known)
    if image.dtype != "uint8":
        hint = (
            "end the last stage in (x * 127.5 + 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)"
            ".to(torch.uint8), where x lies in -1 to 1"
        )
        raise UsageError(f"'image' is {_shown(image)}, not {wanted}", hint)
    if len(image.shape) != PICTURE_AXES or image.shape[3] not in CHANNELS or TOKENS in image.shape:
        problem = f"'image' is {_shown(image)}, not {wanted}"
        raise UsageError(problem, "permute it to (batch, height, width, channels)")
    if image.shape[1:3] != size:
        problem = f"'image' is {_shown(image)}, but ImageSpec says height {size[0]} and width {size[1]}"
        raise UsageError(problem, "make ImageSpec(height=, width=) what the last stage gives")


def _missing(name: str, wanted: str, known: dict[str, TensorSpec]) -> UsageError:
    given = ", ".join(known)
    return UsageError(f"no stage gives {name!r}; there are {given}", f"call it {name!r}: {wanted}; {HINT}")


def _check_tables(model: StagedModel, known: dict[str, TensorSpec]) -> None:
    for name, rows in model.tables.items():
        if name not in known or known[name].dtype not in CODE_DTYPES or len(known[name].shape) != 3:
            problem = f"StagedModel.tables names {name!r}, which is no tensor of codes with three axes"
            raise UsageError(problem, f"choose one of: {', '.join(known)}")
        if type(rows) is not int or rows < 1:
            raise UsageError(f"StagedModel.tables: {name!r} has {rows!r} rows", "give a whole number")


def _check_tokenizer(tokenizer: object, text: TextSpec) -> None:
    if not isinstance(tokenizer, bytes):
        problem = f"StagedModel.tokenizer is a {type(tokenizer).__name__}, not bytes"
        raise UsageError(problem, "give the text of tokenizer.json: tokenizer.to_str().encode()")
    name = text.tokenizer
    if not is_plain_name(name) or not name.endswith(".json"):
        raise UsageError(f"TextSpec.tokenizer is {name!r}", 'write tokenizer="tokenizer.json"')
    try:
        Tokenizer(tokenizer, text)
    except TextualVisionError as error:
        hint = f"tokenizer, pad_id and unknown_id must fit each other; {HINT}"
        raise UsageError(f"StagedModel.tokenizer: {error.message}", hint) from None


def _shown(one: TensorSpec) -> str:
    return f"{one.dtype} ({', '.join(map(str, one.shape))})"
