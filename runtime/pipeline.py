"""From prompts and seeds to pictures: the stages of a bundle, run one after the other by one backend.

A stage takes what its inputs are called from the tensors known so far: the prompt's token ids and mask, the
noise, and the outputs of the stages before. Stages that need no noise depend on the prompt alone and run once
for all its pictures.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.backends.session import (
    Array,
    Session,
    backend_by_name,
    choice_hint,
    default_backend,
)
from textual_vision.runtime.backends.stages import open_stages
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import BundleWarning, IntegrityError, UsageError, shortened
from textual_vision.runtime.generation.stages import check_outputs, sizes_of
from textual_vision.runtime.manifest import Manifest, StageSpec
from textual_vision.runtime.noise import RECIPE, noise_from_seed
from textual_vision.runtime.tokenizer import PromptNote, Tokenizer

PROMPT_TENSORS = ("input_ids", "attention_mask")
NOISE, IMAGE, CODES = "noise", "image", "codes"
BATCH = "batch"  # the first dimension of every tensor


@dataclass(frozen=True, kw_only=True)
class EncodedText:
    """What the stages that see only the prompt gave: tensors by name, one row per prompt."""

    prompts: tuple[str, ...]
    notes: tuple[PromptNote, ...]
    tensors: Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class GeneratedImages:
    """`images` uint8 (pictures, height, width, 3) in RGB; `codes` int64 (pictures, rows, columns)."""

    images: npt.NDArray[np.uint8]
    codes: npt.NDArray[np.int64]


class TextToImage:
    """A loaded bundle, ready to draw. `TextToImage.load(path)("a dog", seed=7)` is a picture."""

    def __init__(self, bundle: Bundle, *, precision: str, backend: str, threads: int | None) -> None:
        """Load every stage; `load` is the usual way here, with its defaults."""
        self.bundle, self.precision, self.backend = bundle, precision, backend
        manifest = bundle.manifest
        self._prompt_stages, self._picture_stages = _split(manifest)
        _check_text(manifest)
        _check_noise(manifest)
        _check_pictures(manifest)
        self.on_stage: Callable[[str, float], None] | None = None  # called with a stage's name and seconds
        self._tokenizer = Tokenizer(bundle.read(manifest.text.tokenizer), manifest.text)
        self._sessions = open_stages(bundle, precision, backend, threads)
        for stage in manifest.stages:
            _check_names(stage, self._sessions[stage.name], manifest.precisions[precision].files[stage.name])

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        precision: str | None = None,
        backend: str | None = None,
        threads: int | None = None,
    ) -> TextToImage:
        """Open the bundle at `path`.

        `precision` None is the bundle's default; `backend` None is the first installed of ONNX Runtime and
        OpenVINO; `threads` None is the backend's choice. Warns with BundleWarning of what the bundle's maker
        found wrong. Raises UsageError (no such folder, precision or backend), BackendMissingError and
        IntegrityError (a damaged bundle).
        """
        chosen_backend = default_backend() if backend is None else backend
        backend_by_name(chosen_backend)
        bundle = Bundle(path)
        manifest = bundle.manifest
        chosen = manifest.default_precision if precision is None else precision
        if chosen not in manifest.precisions:
            hint = choice_hint(chosen, list(manifest.precisions))
            raise UsageError(f"the bundle has no precision {shortened(chosen)!r}", hint)
        if manifest.noise.recipe != RECIPE:
            problem = f"manifest.noise.recipe: unknown recipe {manifest.noise.recipe!r}"
            raise IntegrityError(problem, "install a newer promptsprite")
        _warn(manifest, chosen)
        return cls(bundle, precision=chosen, backend=chosen_backend, threads=threads)

    def __call__(self, prompt: str, seed: int = 0) -> npt.NDArray[np.uint8]:
        """One picture, uint8 (height, width, 3) in RGB; the same prompt and seed give the same picture."""
        image: npt.NDArray[np.uint8] = self.generate([prompt], [seed]).images[0]
        return image

    def encode_text(self, prompts: Sequence[str]) -> EncodedText:
        """Run the prompt's stages once for many `generate` calls. Raises UsageError for an empty prompt."""
        if isinstance(prompts, str):
            raise UsageError("one string where a list of prompts is expected", "write [prompt]")
        tokens = self._tokenizer.encode(prompts)
        size = self._batch_limit(self._prompt_stages, len(prompts))
        parts = [
            self._encode_batch(tokens.ids[start : start + size], tokens.mask[start : start + size])
            for start in range(0, len(prompts), size)
        ]
        tensors = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return EncodedText(prompts=tuple(prompts), notes=tokens.notes, tensors=tensors)

    def generate(self, prompts: Sequence[str] | EncodedText, seeds: Sequence[int]) -> GeneratedImages:
        """Picture k from prompt k and seed k; one prompt with many seeds, or many with one, also goes.

        Raises UsageError when the numbers of prompts and seeds do not fit, or a seed is not of 64 bits.
        """
        text = prompts if isinstance(prompts, EncodedText) else self.encode_text(prompts)
        count = max(len(text.prompts), len(seeds))
        if not seeds or not {len(text.prompts), len(seeds)} <= {1, count}:
            problem = f"{len(text.prompts)} prompts and {len(seeds)} seeds"
            raise UsageError(problem, "give as many of one as of the other, or one of one")
        rows = np.resize(np.arange(len(text.prompts)), count)
        dim = self.bundle.manifest.noise.dim
        noise = np.concatenate([noise_from_seed(seed, 1, dim) for seed in seeds])
        noise = noise[np.resize(np.arange(len(seeds)), count)]
        size = self._batch_limit(self._picture_stages, self.bundle.manifest.batch.max)
        starts = range(0, count, size)
        parts = [self._generate_batch(text, rows[i : i + size], noise[i : i + size]) for i in starts]
        return GeneratedImages(
            images=np.concatenate([part.images for part in parts]),
            codes=np.concatenate([part.codes for part in parts]),
        )

    def _batch_limit(self, stages: Sequence[StageSpec], wanted: int) -> int:
        """`wanted` rows at once, or fewer when a session of the stages takes no more: an engine may not."""
        limits = (self._sessions[stage.name].largest_batch for stage in stages)
        return min([wanted, *(limit for limit in limits if limit is not None)])

    def _encode_batch(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> dict[str, Array]:
        tensors: dict[str, Array] = dict(zip(PROMPT_TENSORS, (ids, mask), strict=True))
        for stage in self._prompt_stages:
            tensors.update(self._run(stage, tensors))
        return tensors

    def _generate_batch(
        self, text: EncodedText, rows: Array, noise: npt.NDArray[np.float32]
    ) -> GeneratedImages:
        tensors: dict[str, Array] = {name: tensor[rows] for name, tensor in text.tensors.items()}
        tensors[NOISE] = noise
        for stage in self._picture_stages:
            tensors.update(self._run(stage, tensors))
        image, codes = tensors[IMAGE], tensors[CODES]
        return GeneratedImages(
            images=image.astype(np.uint8, copy=False), codes=codes.astype(np.int64, copy=False)
        )

    def _run(self, stage: StageSpec, tensors: Mapping[str, Array]) -> dict[str, Array]:
        sizes = sizes_of(stage, tensors)
        inputs = {spec.name: tensors[spec.name] for spec in stage.inputs}
        start = time.perf_counter()
        outputs = self._sessions[stage.name].run(inputs)
        if self.on_stage is not None:
            self.on_stage(stage.name, time.perf_counter() - start)
        check_outputs(stage, outputs, sizes)
        return {spec.name: outputs[spec.name] for spec in stage.outputs}


def _split(manifest: Manifest) -> tuple[list[StageSpec], list[StageSpec]]:
    """The stages that depend on the prompt alone, and those that also need noise; checks that all fit."""
    by_prompt, by_picture = set(PROMPT_TENSORS), {NOISE}
    prompt_stages: list[StageSpec] = []
    picture_stages: list[StageSpec] = []
    for stage in manifest.stages:
        needs, gives = {spec.name for spec in stage.inputs}, {spec.name for spec in stage.outputs}
        if missing := needs - by_prompt - by_picture:
            problem = (
                f"manifest.stages: {stage.name!r} needs {min(missing)!r}, which no stage before it gives"
            )
            raise IntegrityError(problem, "export the bundle again")
        alone = needs <= by_prompt
        (prompt_stages if alone else picture_stages).append(stage)
        (by_prompt if alone else by_picture).update(gives)
    if missing := {IMAGE, CODES} - by_prompt - by_picture:
        problem = f"manifest.stages: no stage gives {min(missing)!r}"
        raise IntegrityError(problem, "export the bundle again")
    return prompt_stages, picture_stages


def _check_text(manifest: Manifest) -> None:
    """A number of tokens in a shape must be the one that every prompt is padded to."""
    text = manifest.text
    fixed = text.max_tokens if text.fixed_length else None
    for stage in manifest.stages:
        for spec in stage.inputs:
            size = spec.shape[1] if spec.name in PROMPT_TENSORS and len(spec.shape) == 2 else fixed
            if isinstance(size, int) and size != fixed:
                takes = "varies" if fixed is None else f"is {fixed}"
                problem = f"manifest.stages: {stage.name!r} takes {size} tokens, the text's length {takes}"
                raise IntegrityError(problem, "export the bundle again")


def _check_noise(manifest: Manifest) -> None:
    for stage in manifest.stages:
        for spec in stage.inputs:
            if spec.name == NOISE and spec.shape[1:] != (manifest.noise.dim,):
                problem = f"manifest.noise.dim: {manifest.noise.dim}, but {stage.name!r} takes {spec.shape}"
                raise IntegrityError(problem, "export the bundle again")


def _check_pictures(manifest: Manifest) -> None:
    """The tensors that leave the model are those that callers are promised."""
    size = manifest.image
    pictures = [(size.height, size.width, channels) for channels in (3, 1)]  # RGB and gray
    promised = {IMAGE: ("uint8", pictures), CODES: ("int64", None)}
    for stage in manifest.stages:
        for spec in stage.outputs:
            dtype, choices = promised.get(spec.name, (spec.dtype, None))
            batch = spec.shape[:1] == (BATCH,)
            if spec.dtype != dtype or not batch or (choices is not None and spec.shape[1:] not in choices):
                problem = f"manifest.stages: {stage.name!r} gives {spec.name!r} as {spec.dtype} {spec.shape}"
                raise IntegrityError(problem, "export the bundle again")


def _check_names(stage: StageSpec, session: Session, file: str) -> None:
    """A backend may fill an input that it is not given with zeros, so the names are compared beforehand."""
    for side, specs, found in (
        ("inputs", stage.inputs, session.inputs),
        ("outputs", stage.outputs, session.outputs),
    ):
        if (declared := {spec.name for spec in specs}) != found:
            names = shortened(f"{sorted(found)}")
            problem = f"{file}: {side} {names}, the manifest says {shortened(f'{sorted(declared)}')}"
            raise IntegrityError(problem, "export the bundle again")


def _warn(manifest: Manifest, precision: str) -> None:
    texts = list(manifest.warnings)
    verdict = manifest.precisions[precision].verdict
    if verdict == "fail":
        texts.append(f"precision {precision!r} failed its comparison with the trained model")
    elif verdict == "unchecked":
        texts.append(f"precision {precision!r} was never compared with the trained model")
    for text in texts:
        warnings.warn(f"bundle {manifest.name!r}: {shortened(text)}", BundleWarning, stacklevel=3)
