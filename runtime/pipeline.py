"""From prompts and seeds to pictures: the stages of a bundle, run one after the other by one backend.

A stage takes what its inputs are called from the tensors known so far: the prompt's token ids and mask, the
noise, and the outputs of the stages before. Stages that need no noise depend on the prompt alone and run once
for all its pictures.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.backends.session import (
    Array,
    Session,
    backend_by_name,
    default_backend,
)
from textual_vision.runtime.backends.stages import graph_cache_setting, open_stages
from textual_vision.runtime.bundle import Bundle, Source
from textual_vision.runtime.errors import (
    BundleWarning,
    CancelledError,
    PromptWarning,
    UsageError,
)
from textual_vision.runtime.generation.arguments import (
    batch_size_from,
    check_counts,
    condition_from,
    conditions_from,
    parameters_from,
    seed_from,
    seeds_from,
)
from textual_vision.runtime.generation.conditions import Condition, ConditionReader, usual_texts
from textual_vision.runtime.generation.consistency import (
    CODES,
    IMAGE,
    check_choices,
    check_names,
    split_manifest,
    warnings_of,
)
from textual_vision.runtime.generation.program import StageRunner, Unit, program_from_manifest, run_unit
from textual_vision.runtime.generation.request import Request
from textual_vision.runtime.generation.results import GeneratedImage, GeneratedImages
from textual_vision.runtime.generation.tensor_checks import check_inputs, check_outputs, sizes_of
from textual_vision.runtime.generation.text import EncodedText, Tensors, TextCache, warn_caller
from textual_vision.runtime.manifest import StageSpec
from textual_vision.runtime.text.tokenizer import warnings_of_note

if TYPE_CHECKING:  # what few callers need is imported when it is called
    from textual_vision.runtime.generation.explain import Explanation
    from textual_vision.runtime.generation.results import Description
    from textual_vision.runtime.isolation.limits import IsolationLimits

TEXT_CACHE_ENTRIES = 32
WARM_UP_PROMPT = "a"

LOG = logging.getLogger("textual_vision")
LOG.addHandler(logging.NullHandler())

Progress = Callable[[int, int], None]


class TextToImage:
    """A loaded bundle, ready to generate. `TextToImage.load(path)("a dog", seed=7)` is a picture.

    Threads may share it. As a context manager it closes itself.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str,
        backend: str,
        threads: int | None,
        isolated: bool = False,
        limits: IsolationLimits | None = None,
        text_cache: int = TEXT_CACHE_ENTRIES,
        batch_size: int | None = None,
        graph_cache: bool = False,
        spinning: bool = True,
        sessions: Mapping[str, Session] | None = None,
    ) -> None:
        """Load every stage; `load` is the usual way here, with its defaults.

        `sessions` by stage run the model in the place of a backend's.
        """
        self.bundle, self.precision, self.backend, self.isolated = bundle, precision, backend, isolated
        self.backend_reason = "it was asked for"
        self.on_stage: Callable[[str, float], None] | None = None  # called with a stage's name and seconds
        self.process_id: int | None = None  # of the child that computes
        self._closed = False
        self.batch_size = batch_size_from(batch_size, bundle.manifest.batch.max)
        manifest = bundle.manifest
        self._program = program_from_manifest(manifest)
        self._condition_units, self._image_units = split_manifest(manifest)
        self._cache = TextCache(text_cache)
        self._close: Callable[[], None] = _nothing
        self._child_runs: Callable[[], bool] = lambda: True
        self.sessions: Mapping[str, Session]
        if isolated:
            from textual_vision.runtime.isolation.limits import IsolationLimits
            from textual_vision.runtime.isolation.process import IsolatedProcess

            process = IsolatedProcess(bundle, precision, backend, threads, limits or IsolationLimits())
            self._conditions = ConditionReader(bundle, process.tokenizer)
            self.sessions = process.sessions
            self._close, self.process_id = process.close, process.process_id
            self._child_runs = lambda: process.alive
        else:
            self._conditions = ConditionReader(bundle)
            self.sessions = sessions or open_stages(
                bundle, precision, backend, threads, graph_cache=graph_cache, spinning=spinning
            )
        for stage in manifest.stages:
            check_names(stage, self.sessions[stage.name], manifest.precisions[precision].files[stage.name])

    @classmethod
    def load(
        cls,
        path: Source | Bundle,
        precision: str | None = None,
        backend: str | None = None,
        threads: int | None = None,
        *,
        isolated: bool = False,
        limits: IsolationLimits | None = None,
        text_cache: int = TEXT_CACHE_ENTRIES,
        batch_size: int | None = None,
        graph_cache: bool | None = None,
        spinning: bool = True,
        require_signature: str | os.PathLike[str] | None = None,
    ) -> TextToImage:
        """Open the bundle at `path`: a folder, a zip archive, its bytes, a package's resource, or a `Bundle`.

        `precision` None is the bundle's default; `backend` None is the first installed of ONNX Runtime and
        OpenVINO; `threads` None is the backend's choice. With `isolated` the tokenizer and the graphs
        work in a child process within `limits`: for bundles from strangers, on Linux. `text_cache` encoded
        batches of prompts are kept.

        At most `batch_size` pictures are computed at once, None being the profile's maximum. Backends choose
        kernels by the size of a batch, which round otherwise: a picture may differ by one level in fp32, and
        in a few codes in int8, from the same picture in another batch. With `batch_size` 1 it never does.

        With `graph_cache`, graphs that ONNX Runtime has optimized for this processor are kept in the user's
        cache folder: the next start is quicker and takes less memory, and pictures stay the same. None is
        True, unless the environment says TV_GRAPH_CACHE=off. Isolated models neither read nor write it.

        Without `spinning`, the threads of ONNX Runtime sleep while they wait for work: a start and a picture
        take less processor time, and many pictures in a row take longer.

        `require_signature` is the PEM file of an Ed25519 key that must have signed the bundle.

        Warns with BundleWarning of what the bundle's maker found wrong. Raises UsageError (no such folder,
        precision or backend, too many threads), BackendMissingError and IntegrityError (a damaged bundle).
        """
        chosen_backend = default_backend() if backend is None else backend
        backend_by_name(chosen_backend)
        bundle = path if isinstance(path, Bundle) else Bundle(path)
        if require_signature is not None:
            bundle.check_signature(Path(require_signature))
        chosen = bundle.manifest.default_precision if precision is None else precision
        check_choices(bundle.manifest, chosen)
        for text in warnings_of(bundle.manifest, chosen):
            warn_caller(text, BundleWarning)
        model = cls(
            bundle,
            precision=chosen,
            backend=chosen_backend,
            threads=threads,
            isolated=isolated,
            limits=limits,
            text_cache=text_cache,
            batch_size=batch_size,
            graph_cache=graph_cache_setting() if graph_cache is None else graph_cache,
            spinning=spinning,
        )
        if backend is None:
            model.backend_reason = "it is the first that is installed"
        LOG.debug("loaded %s: %s by %s", bundle.label, chosen, chosen_backend)
        return model

    def __call__(self, prompt: str | int | None = None, seed: int = 0) -> npt.NDArray[np.uint8]:
        """One picture, uint8 (height, width, channels); the same prompt and seed give the same picture.

        `prompt` is a label, by name or number, where the model takes labels, and None where it takes nothing.
        """
        given = None if prompt is None else [condition_from(prompt)]
        image: npt.NDArray[np.uint8] = self.generate(given, [seed_from(seed)]).images[0]
        return image

    def encode_text(self, prompts: Sequence[str | int] | None) -> EncodedText:
        """Run the condition's stages once for many `generate` calls.

        Raises UsageError for an empty prompt.
        """
        batches = self._read(conditions_from(prompts))
        return EncodedText(
            prompts=tuple(text for condition in batches for text in condition.texts),
            notes=tuple(note for condition in batches for note in condition.notes),
            batches=tuple(self._encoded(condition, None) for condition in batches),
            source=self._source(),
        )

    def generate(
        self,
        prompts: Sequence[str | int] | EncodedText | None,
        seeds: Sequence[int],
        *,
        parameters: Mapping[str, float] | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> GeneratedImages:
        """Picture k from prompt k and seed k; one prompt with many seeds, or many with one, also goes.

        A model with labels takes these, by name or number, in the place of prompts; one without a condition
        takes None. `parameters` sets numbers that the model declares, such as a guidance scale.

        `progress` is called with the numbers of finished and of all pictures after every batch. Setting
        `cancel`, in another thread, ends the work before the next stage with CancelledError.

        Raises UsageError when the numbers of prompts and seeds do not fit, a seed is not of 64 bits, or text
        was encoded by another bundle or precision; IntegrityError when a stage gives what it must not.
        """
        stream = self.stream(prompts, seeds, parameters=parameters, progress=progress, cancel=cancel)
        pictures = tuple(stream)
        codes = [picture.codes for picture in pictures if picture.codes is not None]
        return GeneratedImages(
            images=np.stack([picture.image for picture in pictures]),
            codes=np.stack(codes) if codes else None,
            pictures=pictures,
        )

    def stream(
        self,
        prompts: Sequence[str | int] | EncodedText | None,
        seeds: Sequence[int],
        *,
        parameters: Mapping[str, float] | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[GeneratedImage]:
        """The pictures of `generate`, each when its batch is finished; arguments are checked at once."""
        numbers = parameters_from(parameters, self._program.parameters)
        request = self._request(prompts, seeds, cancel)
        return self._pictures(request, numbers, progress, cancel)

    def explain(self, prompt: str | int | None = None, seed: int = 0) -> Explanation:
        """How the picture of a prompt and a seed came about; see `Explanation`.

        For each word the picture is generated again without it: as many pictures as the prompt has words.
        """
        from textual_vision.runtime.generation.explain import explain

        given = [condition_from(prompt)] if prompt is not None else [""]
        (condition,) = self._read(given)
        pieces = self._conditions.pieces(given[0])
        return explain(condition, pieces, seed_from(seed), self.bundle.manifest.text, self._tensors_of)

    def run_stage(self, name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs of one stage by name, for inputs of your own: codes, pictures, text.

        Raises UsageError for an unknown stage or another set of inputs, IntegrityError for a wrong output.
        """
        stage = next((one for one in self.bundle.manifest.stages if one.name == name), None)
        if stage is None:
            names = ", ".join(one.name for one in self.bundle.manifest.stages)
            raise UsageError(f"no stage {name!r}", f"the stages are {names}")
        expected = {spec.name for spec in stage.inputs}
        if set(inputs) != expected:
            problem = f"stage {name!r} takes {', '.join(sorted(expected))}, not {', '.join(sorted(inputs))}"
            raise UsageError(problem, "give exactly these tensors")
        check_inputs(stage, inputs)
        return self._run(stage, inputs)

    def _tensors_of(self, condition: Condition, seed: int) -> Tensors:
        """All tensors that lead to one picture, the picture included."""
        text = self._encode_batch(condition, None)
        return {**text, **self._image_tensors(text, [0], [seed], {}, None)}

    def _request(
        self,
        prompts: Sequence[str | int] | EncodedText | None,
        seeds: Sequence[int],
        cancel: threading.Event | None,
    ) -> Request:
        numbers = seeds_from(seeds)
        if isinstance(prompts, EncodedText):
            if prompts.source != self._source():
                digest, precision = prompts.source
                problem = f"this text was encoded by the bundle {digest[:12]}… in {precision}"
                raise UsageError(problem, "encode it by the model that generates from it")
            self._check_open()
            wanted, notes = prompts.prompts, prompts.notes
            parts = iter(prompts.batches)
        else:
            given = conditions_from(prompts)
            check_counts(len(given), len(numbers))
            batches = self._read(given)
            wanted = tuple(text for condition in batches for text in condition.texts)
            notes = tuple(note for condition in batches for note in condition.notes)
            parts = (self._encoded(condition, cancel) for condition in batches)
        count = check_counts(len(wanted), len(numbers))
        repeated = tuple(numbers[row % len(numbers)] for row in range(count))
        return Request(prompts=wanted, notes=notes, seeds=repeated, parts=parts)

    def _pictures(
        self,
        request: Request,
        parameters: Mapping[str, float],
        progress: Progress | None,
        cancel: threading.Event | None,
    ) -> Iterator[GeneratedImage]:
        size = self._batch_limit(self._image_units)
        done = 0
        for tensors, rows in request.rows_of_parts():
            for start in range(0, len(rows), size):
                some = rows[start : start + size]
                seeds = request.seeds[done : done + len(some)]
                images, codes = self._generate_batch(tensors, some, seeds, parameters, cancel)
                if progress is not None:
                    progress(done + len(some), len(request.seeds))
                for place, seed in enumerate(seeds):
                    prompt, note = request.prompt_of(done + place)
                    grid = None if codes is None else codes[place]
                    yield GeneratedImage(
                        prompt=prompt,
                        seed=seed,
                        image=images[place],
                        codes=grid,
                        note=note,
                        digest=self.bundle.digest,
                        precision=self.precision,
                    )
                done += len(some)

    def _read(self, texts: Sequence[str | int]) -> list[Condition]:
        """The conditions in batches; warns of words that are unknown or cut."""
        self._check_open()
        batches = self._conditions.read_batches(texts, self._batch_limit(self._condition_units))
        text = self.bundle.manifest.text
        for condition in batches if text is not None else ():
            for prompt, note in zip(condition.texts, condition.notes, strict=True):
                for warning in warnings_of_note(prompt, note, 0 if text is None else text.max_tokens):
                    warn_caller(warning, PromptWarning)
        return batches

    def _batch_limit(self, units: Sequence[Unit]) -> int:
        """The profile's largest batch, or less when a session of the units takes no more."""
        limits = (self.sessions[stage.name].largest_batch for unit in units for stage in unit.stages)
        return min([self.batch_size, *(limit for limit in limits if limit is not None)])

    def _encoded(self, condition: Condition, cancel: threading.Event | None) -> Tensors:
        return self._cache.encoded(condition, lambda one: self._encode_batch(one, cancel))

    def _encode_batch(self, condition: Condition, cancel: threading.Event | None) -> Tensors:
        tensors: dict[str, Array] = dict(condition.tensors)
        rows = len(condition.texts)
        for unit in self._condition_units:
            tensors.update(run_unit(unit, tensors, self._runner(cancel), _no_noise, rows))
        return tensors

    def _generate_batch(
        self,
        text: Tensors,
        rows: Sequence[int],
        seeds: Sequence[int],
        parameters: Mapping[str, float],
        cancel: threading.Event | None,
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64] | None]:
        tensors = self._image_tensors(text, rows, seeds, parameters, cancel)
        image, codes = tensors[IMAGE], tensors.get(CODES)
        return image.astype(np.uint8, copy=False), None if codes is None else codes.astype(
            np.int64, copy=False
        )

    def _image_tensors(
        self,
        text: Tensors,
        rows: Sequence[int],
        seeds: Sequence[int],
        parameters: Mapping[str, float],
        cancel: threading.Event | None,
    ) -> dict[str, Array]:
        tensors: dict[str, Array] = {name: tensor[list(rows)] for name, tensor in text.items()}
        tensors.update(self._program.start_tensors(seeds))
        tensors.update({name: np.full(len(seeds), one, np.float32) for name, one in parameters.items()})
        noise = self._program.step_noise(seeds)
        for unit in self._image_units:
            tensors.update(run_unit(unit, tensors, self._runner(cancel), noise, len(seeds)))
        return tensors

    def _runner(self, cancel: threading.Event | None) -> StageRunner:
        def run(stage: StageSpec, tensors: Mapping[str, Array], step: int) -> dict[str, Array]:
            _check_cancelled(cancel)
            return self._run(stage, tensors)

        return run

    def _run(self, stage: StageSpec, tensors: Mapping[str, Array]) -> dict[str, Array]:
        self._check_open()
        sizes = sizes_of(stage, tensors)
        inputs = {spec.name: tensors[spec.name] for spec in stage.inputs}
        start = time.perf_counter()
        outputs = self.sessions[stage.name].run(inputs)
        if self.on_stage is not None:
            self.on_stage(stage.name, time.perf_counter() - start)
        check_outputs(stage, outputs, sizes)
        return {spec.name: outputs[spec.name] for spec in stage.outputs}

    def warm_up(self) -> None:
        """Generate one picture and drop it: the first use of a backend is slower than later ones."""
        self._check_open()
        condition = self._conditions.read(usual_texts(self.bundle.manifest, [WARM_UP_PROMPT], 1))
        self._generate_batch(self._encode_batch(condition, None), [0], [0], {}, None)

    @property
    def alive(self) -> bool:
        """Whether it can compute: it is not closed, and the child of an isolated model has not ended."""
        return not self._closed and self._child_runs()

    def describe(self) -> Description:
        """What is loaded, and what really computes it."""
        from textual_vision.runtime.generation.describe import describe_model

        self._check_open()
        return describe_model(self.bundle, self)

    def close(self) -> None:
        """Give back the memory of the model; it cannot generate afterward. Closing twice is fine."""
        from textual_vision.runtime.generation.memory import return_memory

        self._closed = True
        self.sessions = {}
        self._cache.clear()
        self._close()
        return_memory()

    def __enter__(self) -> TextToImage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        hint = f"give the other process the path of the bundle ({self.bundle.label}) and load it there"
        raise UsageError("a loaded model cannot be pickled or copied", hint)

    def _source(self) -> tuple[str, str]:
        return self.bundle.digest, self.precision

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the model is closed", "load it again")


def _nothing() -> None:
    """Close nothing."""


def _no_noise(step: int) -> dict[str, Array]:
    """No noise: the condition's stages take none."""
    return {}


def _check_cancelled(cancel: threading.Event | None) -> None:
    if cancel is not None and cancel.is_set():
        raise CancelledError("cancelled", "")
