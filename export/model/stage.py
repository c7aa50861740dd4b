"""The model to export: stages with the names, types and shapes of their tensors.

A model is any number of PyTorch modules in running order. A stage takes its inputs by name from the prompt's
tokens (`input_ids`, `attention_mask`), the noise and the outputs of earlier stages. To export a model of your
own, see docs/how-to/custom-model.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from textual_vision.export.model.example_run import (
    HINT,
    IMAGE,
    Carried,
    ExampleInputs,
    stages_from_modules,
)
from textual_vision.export.model.image_output import ROUND
from textual_vision.export.model.text_settings import largest_id, text_from_tokenizer
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.program import Program
from textual_vision.runtime.generation.specs import LabelSpec, LoopSpec, NoiseSpec, ParameterSpec
from textual_vision.runtime.manifest import ImageSpec, StageSpec, TensorSpec, TextSpec

MIN_TOKENS = 3  # one word between the two special tokens

Margins = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One network. `module(*inputs)` gives the outputs, in the order of `spec`.

    `margins` maps the stage's inputs by name to the margins of its code outputs: the gap between the best
    two candidates, relative to the length of the quantized vector (float, the codes' shape). Without it,
    every different code counts as a difference. Where codes are chosen in steps, each conditioned on those
    before it, `margins` also returns their step numbers, under the output's name and ".step".

    `inference_module` makes a module that computes the same faster, or None where it cannot. It is exported
    in place of `module`, and its results are compared with those of `module`.

    `blocks` is the number of blocks in the traced program, counting a block each time that it runs.
    """

    spec: StageSpec
    module: nn.Module
    margins: Margins | None = None
    inference_module: Callable[[], nn.Module | None] | None = None
    blocks: int = 1

    @property
    def name(self) -> str:
        """Return the stage's name, which is also the name of its graph."""
        return self.spec.name


@dataclass(frozen=True, kw_only=True)
class StagedModel:
    """A model ready to export. `card` goes into MODEL_CARD.md.

    It is conditioned on a prompt (`text`, and `tokenizer`, the text of tokenizer.json), on a class
    (`labels`), or on nothing. `noise`, `parameters` and `loops` as in the manifest.

    `digest` names the checkpoint in the bundle. `fingerprint` is the key of a build's cached steps. It covers
    the weights, the source files, the specs and the tokenizer, and is set where the model is loaded.

    `tables` maps the names of code tensors to the number of rows of their codebook (of one group, where
    tokens have several).
    """

    name: str
    stages: tuple[Stage, ...]
    image: ImageSpec
    noise: tuple[NoiseSpec, ...]
    license: str
    notice: str
    digest: str
    text: TextSpec | None = None
    tokenizer: bytes | None = None
    labels: LabelSpec | None = None
    parameters: tuple[ParameterSpec, ...] = ()
    loops: tuple[LoopSpec, ...] = ()
    fingerprint: str = ""
    card: Mapping[str, object] = field(default_factory=dict)
    tables: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_modules(
        cls,
        modules: Mapping[str, nn.Module],
        *,
        name: str,
        image_range: tuple[float, float] | None = None,
        noise: NoiseSpec | Sequence[NoiseSpec] = (),
        labels: int | Sequence[str] | None = None,
        tokenizer: Tokenizer | bytes | None = None,
        max_tokens: int | None = None,
        text: TextSpec | None = None,
        parameters: Sequence[ParameterSpec] = (),
        loops: Sequence[LoopSpec] = (),
        carried: Carried | None = None,
        inputs: Mapping[str, Sequence[str]] | None = None,
        outputs: Mapping[str, Sequence[str]] | None = None,
        margins: Mapping[str, Margins] | None = None,
        tables: Mapping[str, int] | None = None,
        rounding: str = ROUND,
        license: str = "not stated",
        notice: str = "",
        digest: str | None = None,
    ) -> StagedModel:
        """Return the model whose stages are `modules` by name, in running order.

        Each module is run twice on small inputs; names are those of the arguments of `forward`, dtypes and
        shapes those of its results. An argument is `input_ids`, `attention_mask` (int64 (batch, tokens)),
        `lengths`, `label` (int64 (batch,)), the name of a noise tensor, a parameter, or an output of an
        earlier module. `inputs` and `outputs` give the names of a module where its arguments have others, or
        where it returns several tensors without names. One output is called as its module, the last "image".

        A float picture (batch, 3 or 1, H, W), called "image" or "image_…", becomes uint8 pixels inside the
        graph: `image_range` are its values for black and white, `rounding` is "round" or "truncate".

        `labels` are the names of the classes, or their number. `tokenizer` is a `tokenizers.Tokenizer`, or
        the text of tokenizer.json; `text` replaces the settings that are read from it. `carried` gives dtype
        and shape (without the batch) of tensors that a loop begins with a number. `digest` None is the
        SHA-256 of the weights. Other arguments as in this class and in `Stage`.

        Raises UsageError, which says what to write, where the modules and the arguments do not fit.
        """
        data, spec = text_from_tokenizer(tokenizer, max_tokens, text)
        classes = _label_spec(labels)
        noises = (noise,) if isinstance(noise, NoiseSpec) else tuple(noise)
        given = ExampleInputs(
            noise=noises,
            parameters=tuple(parameters),
            loops=tuple(loops),
            classes=None if classes is None else len(classes.names),
            largest_id=None if data is None or spec is None else largest_id(data, spec),
            max_tokens=0 if spec is None else spec.max_tokens,
            fixed_length=spec is not None and spec.fixed_length,
            carried=carried or {},
        )
        found = stages_from_modules(
            modules,
            given,
            inputs=inputs or {},
            outputs=outputs or {},
            image_range=image_range,
            rounding=rounding,
        )
        stages = tuple(
            Stage(spec=one.spec, module=one.module, margins=(margins or {}).get(one.spec.name))
            for one in found
        )
        return cls(
            name=name,
            stages=stages,
            image=_image_of(stages),
            noise=noises,
            license=license,
            notice=notice,
            digest=digest or _weights_digest(modules),
            text=spec,
            tokenizer=data,
            labels=classes,
            parameters=tuple(parameters),
            loops=tuple(loops),
            tables=tables or {},
        )

    @property
    def program(self) -> Program:
        """How the stages run."""
        specs = tuple(stage.spec for stage in self.stages)
        return Program(stages=specs, noise=self.noise, parameters=self.parameters, loops=self.loops)

    def stage(self, name: str) -> Stage:
        """Return the stage called `name`."""
        return next(stage for stage in self.stages if stage.name == name)


def _label_spec(labels: int | Sequence[str] | None) -> LabelSpec | None:
    if labels is None:
        return None
    return LabelSpec(names=tuple(map(str, range(labels) if isinstance(labels, int) else labels)))


def _image_of(stages: Sequence[Stage]) -> ImageSpec:
    """The size of the output called "image"; raises UsageError when no stage gives a picture."""
    names = [one for stage in stages for one in stage.spec.outputs]
    image = next((one for one in names if one.name == IMAGE), None)
    if image is None:
        problem = (
            f"no stage gives {IMAGE!r}: there are {', '.join(one.name for one in names) or 'no outputs'}"
        )
        raise UsageError(problem, f'call the picture "image", by outputs={{…}}; {HINT}')
    sizes = [size for size in image.shape[1:] if isinstance(size, int)]
    if len(sizes) != 3 or sizes[2] not in (1, 3) or image.dtype != "uint8":
        problem = f"{IMAGE!r} is {image.dtype} {image.shape}, not uint8 (batch, height, width, 3 or 1)"
        raise UsageError(problem, f"return a float picture and say image_range=(-1, 1); {HINT}")
    return ImageSpec(height=sizes[0], width=sizes[1], channels=sizes[2])


def _weights_digest(modules: Mapping[str, nn.Module]) -> str:
    """SHA-256 over the names and the bytes of all tensors of the state dicts."""
    found = hashlib.sha256()
    for stage, module in modules.items():
        for name, value in module.state_dict().items():
            if isinstance(value, Tensor):
                found.update(f"{stage}.{name} {value.dtype} {tuple(value.shape)}\n".encode())
                found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def inference_stage(stage: Stage) -> Stage:
    """Return the stage with its `inference_module` in place of its module, where it has one."""
    module = None if stage.inference_module is None else stage.inference_module()
    return stage if module is None else replace(stage, module=module)


def with_fixed_text(model: StagedModel, tokens: int) -> StagedModel:
    """Return the model for prompts of exactly `tokens`: shorter ones are padded, longer ones cut.

    Raises UsageError when the model takes fewer tokens, or when `tokens` leaves no room for a word.
    """
    if model.text is None:
        raise UsageError(f"{model.name} takes no prompt, so it has no length", "leave out --prompt-length")
    longest = model.text.max_tokens
    if not MIN_TOKENS <= tokens <= longest:
        hint = f"{model.name} takes {MIN_TOKENS} to {longest}: --prompt-length {longest}"
        raise UsageError(f"{tokens} tokens", hint)
    return replace(model, text=replace(model.text, max_tokens=tokens, fixed_length=True))


def tensor(name: str, dtype: str, *shape: int | str) -> TensorSpec:
    """Return the spec of a tensor; in its shape "batch" and "tokens" are the dynamic dimensions."""
    return TensorSpec(name=name, dtype=dtype, shape=shape)
