"""A model that is conditioned on a label and refines a picture in a loop: no prompt, no codes, two noises."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from textual_vision.export.model.stage import Stage, StagedModel, tensor
from textual_vision.runtime.generation.specs import LabelSpec, LoopSpec, NoiseSpec, StartSpec
from textual_vision.runtime.manifest import ImageSpec, StageSpec

SIZE, STEPS, NAMES = 8, 3, ("cat", "dog", "fox", "owl", "bee")
X = tensor("x", "float32", "batch", 3, SIZE, SIZE)


class Class(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(len(NAMES), 3)

    def forward(self, label: Tensor) -> Tensor:
        return self.table(label)


class Denoise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, color: Tensor, jitter: Tensor, time: Tensor) -> Tensor:
        moved = self.mix(x) + color[:, :, None, None] + 0.01 * jitter
        return torch.tanh(moved) * time[:, None, None, None]


class Paint(nn.Module):
    def forward(self, refined: Tensor) -> Tensor:
        pixels = (refined * 127.5 + 127.5).round().clamp(0, 255)
        return pixels.permute(0, 2, 3, 1).to(torch.uint8)


def make() -> StagedModel:
    torch.manual_seed(0)
    color, refined = tensor("color", "float32", "batch", 3), tensor("refined", *[X.dtype, *X.shape])
    label, time = tensor("label", "int64", "batch"), tensor("time", "float32", "batch")
    jitter = tensor("jitter", "float32", "batch", 3, SIZE, SIZE)
    image = tensor("image", "uint8", "batch", SIZE, SIZE, 3)
    modules = {
        "label_encoder": (Class(), (label,), (color,)),
        "denoiser": (Denoise(), (X, color, jitter, time), (refined,)),
        "painter": (Paint(), (refined,), (image,)),
    }
    return StagedModel(
        name="labels",
        stages=tuple(
            Stage(spec=StageSpec(name=name, inputs=inputs, outputs=outputs), module=module.eval())
            for name, (module, inputs, outputs) in modules.items()
        ),
        image=ImageSpec(height=SIZE, width=SIZE),
        noise=(
            NoiseSpec(name="start", shape=(3, SIZE, SIZE)),
            NoiseSpec(name="jitter", shape=(3, SIZE, SIZE), per_step=True),
        ),
        labels=LabelSpec(names=NAMES),
        loops=(
            LoopSpec(
                name="refine",
                stages=("denoiser",),
                steps=STEPS,
                carry={"x": "refined"},
                start={"x": StartSpec(tensor="start")},
                tables={"time": (1.0, 0.9, 0.8)},
            ),
        ),
        license="Apache-2.0",
        notice="random weights\n",
        digest=hashlib.sha256(b"labels").hexdigest(),
    )
