"""The networks of a family in running order, with the tensors between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from textual_vision.runtime.generation.specs import LabelSpec, LoopSpec, NoiseSpec, ParameterSpec
from textual_vision.runtime.manifest import StageSpec, TensorSpec, TextSpec

Margins = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class FamilyStage:
    """One network: `module(*inputs)` gives the outputs, both in the order of `spec`.

    `margins` as in `export.model.stage.Stage`.
    """

    spec: StageSpec
    module: nn.Module
    margins: Margins | None = None


@dataclass(frozen=True, kw_only=True)
class FamilyNetworks:
    """All stages of a family in running order; noise, parameters and loops as in the manifest.

    One stage gives `image`, float32 (batch, colors, H, W), whose values of `image_range` (low, high) are the
    darkest and the brightest; stages after it take the pixels, uint8 (batch, H, W, colors). `rounding` to
    levels is "round", or "truncate" as some originals do.
    `tables` maps the names of codes to the number of rows of their codebook.
    `tokenizer` is the text of tokenizer.json, `text` its settings; both None for a family without prompts.
    `assumed` names each size that the weights do not determine, with the value that was taken.
    """

    stages: tuple[FamilyStage, ...]
    image_size: tuple[int, int]
    image_range: tuple[float, float]
    rounding: str = "round"
    noise: tuple[NoiseSpec, ...] = ()
    parameters: tuple[ParameterSpec, ...] = ()
    loops: tuple[LoopSpec, ...] = ()
    tables: Mapping[str, int] = field(default_factory=dict)
    text: TextSpec | None = None
    tokenizer: bytes | None = None
    labels: LabelSpec | None = None
    assumed: Mapping[str, int | float] = field(default_factory=dict)

    def module(self, name: str) -> nn.Module:
        """The network of the stage called `name`."""
        return next(stage.module for stage in self.stages if stage.spec.name == name)


def stage(
    name: str,
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    margins: Margins | None = None,
) -> FamilyStage:
    """A stage of these tensors, its module in inference mode."""
    module.eval().requires_grad_(False)
    spec = StageSpec(name=name, inputs=inputs, outputs=outputs)
    return FamilyStage(spec=spec, module=module, margins=margins)


def tensor(name: str, dtype: str, *shape: int | str, limit: int | None = None) -> TensorSpec:
    """A tensor (batch, *shape); "tokens" in its shape is the number of tokens."""
    return TensorSpec(name=name, dtype=dtype, shape=("batch", *shape), limit=limit)
