"""A sampler of codes in several steps: `tv-export build docs/examples/sampler.py:make -o sampler.tv`."""

import torch
from torch import Tensor, nn

from textual_vision.export import StagedModel
from textual_vision.runtime.generation.specs import LoopSpec, NoiseSpec, ParameterSpec, StartSpec

CODES, MASKED, STEPS = 32, 32, 4


class Denoiser(nn.Module):
    """Chooses all codes anew and keeps the share `ratio` of them; the others are masked again."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(CODES + 1, 16)
        self.classes = nn.Embedding(3, 16)
        self.mix = nn.Conv2d(16, CODES, 3, padding=1)

    def forward(
        self, codes: Tensor, label: Tensor, ratio: Tensor, gumbel: Tensor, guidance: Tensor
    ) -> Tensor:
        x = self.rows(codes).permute(0, 3, 1, 2)
        free = self.mix(x)
        told = self.mix(x + self.classes(label)[:, :, None, None])
        logits = free + guidance[:, None, None, None] * (told - free)
        chosen = (logits + gumbel).argmax(1)
        place = torch.arange(64).view(8, 8) / 64
        return torch.where(place < ratio[:, None, None], chosen, MASKED)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(CODES + 1, 16)
        self.up = nn.Sequential(nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh())

    def forward(self, codes: Tensor) -> Tensor:
        return self.up(self.rows(codes).permute(0, 3, 1, 2))


def make() -> StagedModel:
    torch.manual_seed(0)
    return StagedModel.from_modules(
        {"denoiser": Denoiser().eval(), "decoder": Decoder().eval()},
        name="sampler",
        labels=3,
        noise=NoiseSpec(name="gumbel", shape=(CODES, 8, 8), law="gumbel", per_step=True),
        parameters=(ParameterSpec(name="guidance", default=2.0, minimum=0.0, maximum=10.0),),
        loops=(
            LoopSpec(
                name="sampling",
                stages=("denoiser",),
                steps=STEPS,
                carry={"masked_codes": "codes"},
                start={"masked_codes": StartSpec(fill=MASKED)},
                tables={"ratio": tuple((step + 1) / STEPS for step in range(STEPS))},
            ),
        ),
        carried={"masked_codes": ("int64", (8, 8))},
        inputs={"denoiser": ("masked_codes", "label", "ratio", "gumbel", "guidance")},
        outputs={"denoiser": ("codes",)},
        image_range=(-1, 1),
    )
