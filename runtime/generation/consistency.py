"""Whether a manifest's stages make one model, and a session is the stage that the manifest describes."""

from __future__ import annotations

from collections.abc import Mapping

from textual_vision.runtime.backends.session import Session, choice_hint
from textual_vision.runtime.errors import IntegrityError, UsageError, shortened
from textual_vision.runtime.generation.program import (
    AGAIN_HINT,
    ATTENTION_MASK,
    BATCH,
    INPUT_IDS,
    LABEL,
    LENGTHS,
    PROMPT_TENSORS,
    Program,
    Unit,
    program_from_manifest,
    split_units,
)
from textual_vision.runtime.manifest import Manifest, StageSpec
from textual_vision.runtime.noise import RECIPE

IMAGE, CODES = "image", "codes"


def split_manifest(manifest: Manifest) -> tuple[list[Unit], list[Unit]]:
    """The stages and loops that depend on the condition alone, and those that need noise or a parameter.

    Raises IntegrityError when stages, condition, noise and picture do not fit together.
    """
    program = program_from_manifest(manifest)
    parameters = [spec.name for spec in manifest.parameters]
    first, second = split_units(program.units, manifest.noise, parameters)
    _check_condition(manifest, program)
    shapes = {spec.name: spec.shape for spec in manifest.noise}
    for stage in manifest.stages:
        _check_text(manifest, stage)
        _check_noise(shapes, stage)
        _check_pictures(manifest, stage)
    if not any(IMAGE in unit.gives for unit in program.units):
        raise IntegrityError("manifest.stages: no stage gives 'image'", AGAIN_HINT)
    return first, second


def _check_condition(manifest: Manifest, program: Program) -> None:
    """The stages take no tensor of a condition that the manifest does not declare."""
    needs = set().union(*(unit.needs for unit in program.units))
    declared = {LABEL} if manifest.labels is not None else set()
    declared |= {INPUT_IDS, ATTENTION_MASK, LENGTHS} if manifest.text is not None else set()
    if extra := needs & set(PROMPT_TENSORS) - declared:
        kind = "labels" if LABEL in extra else "text"
        raise IntegrityError(f"manifest.{kind}: missing, but a stage takes {min(extra)!r}", AGAIN_HINT)


def _check_text(manifest: Manifest, stage: StageSpec) -> None:
    """A number of tokens in a shape must be the one that every prompt is padded to."""
    text = manifest.text
    if text is None:
        return
    fixed = text.max_tokens if text.fixed_length else None
    for spec in stage.inputs:
        size = spec.shape[1] if spec.name in (INPUT_IDS, ATTENTION_MASK) and len(spec.shape) == 2 else fixed
        if isinstance(size, int) and size != fixed:
            takes = "varies" if fixed is None else f"is {fixed}"
            problem = f"manifest.stages: {stage.name!r} takes {size} tokens, the text's length {takes}"
            raise IntegrityError(problem, AGAIN_HINT)


def _check_noise(shapes: Mapping[str, tuple[int, ...]], stage: StageSpec) -> None:
    for spec in stage.inputs:
        if spec.name in shapes and spec.shape[1:] != shapes[spec.name]:
            problem = f"{spec.name!r} is {list(shapes[spec.name])}, but {stage.name!r} takes {spec.shape}"
            raise IntegrityError(f"manifest.noise: {problem}", AGAIN_HINT)


def _check_pictures(manifest: Manifest, stage: StageSpec) -> None:
    """The tensors that leave the model are those that callers are promised."""
    size = manifest.image
    promised = {IMAGE: ("uint8", (size.height, size.width, size.channels)), CODES: ("int64", None)}
    for spec in stage.outputs:
        dtype, rest = promised.get(spec.name, (spec.dtype, None))
        if spec.dtype != dtype or spec.shape[:1] != (BATCH,) or rest not in (None, spec.shape[1:]):
            problem = f"manifest.stages: {stage.name!r} gives {spec.name!r} as {spec.dtype} {spec.shape}"
            raise IntegrityError(problem, AGAIN_HINT)


def check_names(stage: StageSpec, session: Session, file: str) -> None:
    """IntegrityError unless the session has the stage's inputs and outputs.

    A backend may fill an input that it is not given with zeros, so the names are compared beforehand.
    """
    for side, specs, found in (
        ("inputs", stage.inputs, session.inputs),
        ("outputs", stage.outputs, session.outputs),
    ):
        if (declared := {spec.name for spec in specs}) != found:
            names, said = shortened(f"{sorted(found)}"), shortened(f"{sorted(declared)}")
            raise IntegrityError(f"{file}: {side} {names}, the manifest says {said}", AGAIN_HINT)


def check_choices(manifest: Manifest, precision: str) -> None:
    """UsageError when the bundle lacks the precision, IntegrityError for noise of an unknown recipe."""
    if precision not in manifest.precisions:
        hint = choice_hint(precision, list(manifest.precisions))
        raise UsageError(f"the bundle has no precision {shortened(precision)!r}", hint)
    for spec in manifest.noise:
        if spec.recipe != RECIPE:
            problem = f"manifest.noise: unknown recipe {spec.recipe!r}"
            raise IntegrityError(problem, "install a newer promptsprite")


def warnings_of(manifest: Manifest, precision: str) -> list[str]:
    """What the bundle's maker found wrong with it, and with a precision."""
    texts = [shortened(text) for text in manifest.warnings]
    verdict = manifest.precisions[precision].verdict
    if verdict == "fail":
        texts.append(f"precision {precision!r} failed its comparison with the trained model")
    elif verdict == "unchecked":
        texts.append(f"precision {precision!r} was never compared with the trained model")
    return [f"bundle {manifest.name!r}: {text}" for text in texts]
