"""The model to export: stages with the names, types and shapes of their tensors.

A model is any number of PyTorch modules in running order. A stage takes its inputs by name from the prompt's
tokens (`input_ids`, `attention_mask`), the noise and the outputs of earlier stages. To export a model of your
own, see docs/how-to/custom-model.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

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

    @property
    def program(self) -> Program:
        """How the stages run."""
        specs = tuple(stage.spec for stage in self.stages)
        return Program(stages=specs, noise=self.noise, parameters=self.parameters, loops=self.loops)

    def stage(self, name: str) -> Stage:
        """Return the stage called `name`."""
        return next(stage for stage in self.stages if stage.name == name)


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
