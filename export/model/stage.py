"""What is exported: networks with the names, types and shapes of their tensors.

A model is any number of PyTorch modules in running order; a stage takes its inputs by name from the prompt's
tokens (`input_ids`, `attention_mask`), the noise and the outputs of the stages before it. See
docs/how-to/custom-model.md for a model of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import ImageSpec, StageSpec, TensorSpec, TextSpec

TOKENS_LOWEST = 3  # a word between the two special tokens

Margins = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One network. `module(*inputs)` gives the outputs, in the order of `spec`.

    `margins` tells how clearly codes were chosen: from the stage's inputs by name to, for each output of
    codes, the gap between the best two candidates (float, the codes' shape; relative to the length of what
    was quantized). Without it every different code counts as a difference. Codes that were chosen in steps,
    each told of those before it, have their step's number under the output's name and ".step" (float, the
    codes' shape).

    `inference_module` makes a module that computes the same faster, or None where it cannot. It is exported
    in place of `module`, and its results are compared with those of `module`.

    `blocks` is how many its graph holds where a program is traced that runs some again and again.
    """

    spec: StageSpec
    module: nn.Module
    margins: Margins | None = None
    inference_module: Callable[[], nn.Module | None] | None = None
    blocks: int = 1

    @property
    def name(self) -> str:
        """The stage's name, which is also its graph's."""
        return self.spec.name


@dataclass(frozen=True, kw_only=True)
class StagedModel:
    """A model ready to export. `tokenizer` is the text of tokenizer.json; `card` goes into MODEL_CARD.md.

    `digest` names the checkpoint in the bundle. `fingerprint` is set by `load_model`: steps of a build are
    kept under it. It covers the weights, the source files, the specs and the tokenizer.

    `tables` tells, for tensors of codes, how many rows their codebook has (for each group of the words').
    """

    name: str
    stages: tuple[Stage, ...]
    image: ImageSpec
    noise_dim: int
    text: TextSpec
    tokenizer: bytes
    license: str
    notice: str
    digest: str
    fingerprint: str = ""
    card: Mapping[str, object] = field(default_factory=dict)
    tables: Mapping[str, int] = field(default_factory=dict)

    def stage(self, name: str) -> Stage:
        """The stage called `name`."""
        return next(stage for stage in self.stages if stage.name == name)


def inference_stage(stage: Stage) -> Stage:
    """The stage as it is exported."""
    module = None if stage.inference_module is None else stage.inference_module()
    return stage if module is None else replace(stage, module=module)


def with_fixed_text(model: StagedModel, tokens: int) -> StagedModel:
    """The model for prompts of exactly `tokens`: shorter ones are padded, longer ones cut.

    Raises UsageError when the model cannot take so many, or when fewer would leave no room for a word.
    """
    longest = model.text.max_tokens
    if not TOKENS_LOWEST <= tokens <= longest:
        hint = f"{model.name} takes {TOKENS_LOWEST} to {longest}: --prompt-length {longest}"
        raise UsageError(f"{tokens} tokens", hint)
    return replace(model, text=replace(model.text, max_tokens=tokens, fixed_length=True))


def tensor(name: str, dtype: str, *shape: int | str) -> TensorSpec:
    """A tensor's name, dtype and shape; a string names a size that varies: "batch" or "tokens"."""
    return TensorSpec(name=name, dtype=dtype, shape=shape)
