"""Whether a manifest's stages make one model, and a session is the stage that the manifest describes."""

from __future__ import annotations

from textual_vision.runtime.backends.session import Session, choice_hint
from textual_vision.runtime.errors import IntegrityError, UsageError, shortened
from textual_vision.runtime.manifest import Manifest, StageSpec
from textual_vision.runtime.noise import RECIPE

PROMPT_TENSORS = ("input_ids", "attention_mask")
NOISE, IMAGE, CODES = "noise", "image", "codes"
BATCH = "batch"  # the first dimension of every tensor
AGAIN_HINT = "export the bundle again"


def split_stages(manifest: Manifest) -> tuple[list[StageSpec], list[StageSpec]]:
    """The stages that depend on the prompt alone, and those that also need noise.

    Raises IntegrityError when the stages, the prompt's length, the noise and the picture do not fit together.
    """
    by_prompt, by_picture = set(PROMPT_TENSORS), {NOISE}
    prompt_stages: list[StageSpec] = []
    picture_stages: list[StageSpec] = []
    for stage in manifest.stages:
        needs, gives = {spec.name for spec in stage.inputs}, {spec.name for spec in stage.outputs}
        if missing := needs - by_prompt - by_picture:
            problem = f"{stage.name!r} needs {min(missing)!r}, which no stage before it gives"
            raise IntegrityError(f"manifest.stages: {problem}", AGAIN_HINT)
        alone = needs <= by_prompt
        (prompt_stages if alone else picture_stages).append(stage)
        (by_prompt if alone else by_picture).update(gives)
    if missing := {IMAGE, CODES} - by_picture:
        problem = f"manifest.stages: no stage gives {min(missing)!r} from prompt and noise"
        raise IntegrityError(problem, AGAIN_HINT)
    for stage in manifest.stages:
        _check_text(manifest, stage)
        _check_noise(manifest, stage)
        _check_pictures(manifest, stage)
    return prompt_stages, picture_stages


def _check_text(manifest: Manifest, stage: StageSpec) -> None:
    """A number of tokens in a shape must be the one that every prompt is padded to."""
    text = manifest.text
    fixed = text.max_tokens if text.fixed_length else None
    for spec in stage.inputs:
        size = spec.shape[1] if spec.name in PROMPT_TENSORS and len(spec.shape) == 2 else fixed
        if isinstance(size, int) and size != fixed:
            takes = "varies" if fixed is None else f"is {fixed}"
            problem = f"manifest.stages: {stage.name!r} takes {size} tokens, the text's length {takes}"
            raise IntegrityError(problem, AGAIN_HINT)


def _check_noise(manifest: Manifest, stage: StageSpec) -> None:
    for spec in stage.inputs:
        if spec.name == NOISE and spec.shape[1:] != (manifest.noise.dim,):
            problem = f"manifest.noise.dim: {manifest.noise.dim}, but {stage.name!r} takes {spec.shape}"
            raise IntegrityError(problem, AGAIN_HINT)


def _check_pictures(manifest: Manifest, stage: StageSpec) -> None:
    """The tensors that leave the model are those that callers are promised."""
    size = manifest.image
    promised = {IMAGE: ("uint8", (size.height, size.width, 3)), CODES: ("int64", None)}
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
    if manifest.noise.recipe != RECIPE:
        problem = f"manifest.noise.recipe: unknown recipe {manifest.noise.recipe!r}"
        raise IntegrityError(problem, "install a newer textual-vision")


def warnings_of(manifest: Manifest, precision: str) -> list[str]:
    """What the bundle's maker found wrong with it, and with a precision."""
    texts = [shortened(text) for text in manifest.warnings]
    verdict = manifest.precisions[precision].verdict
    if verdict == "fail":
        texts.append(f"precision {precision!r} failed its comparison with the trained model")
    elif verdict == "unchecked":
        texts.append(f"precision {precision!r} was never compared with the trained model")
    return [f"bundle {manifest.name!r}: {text}" for text in texts]
