"""What torch's own translation does not say for every backend and opset is exported with torch's results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.model.stage import Stage, tensor
from textual_vision.export.tracing.exporter import ExportOptions, onnx_from_stage
from textual_vision.runtime.backends.session import SessionOptions, open_session
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import StageSpec

CHANNELS, HEIGHT, WIDTH = 3, 6, 5
OPSETS = (17, 20)
WINDOW = torch.hann_window(8)


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def shifts(x: Tensor) -> Tensor:
    whole = (x * 100).long()
    bits = (whole[:, 0, 0, :1, None] >> torch.arange(6)) % 2  # as codebooks without a table write a code
    return ((whole << 2) + (whole >> 1) + (whole // 4) + bits[..., None].sum((1, 2), keepdim=True)).float()


class OneKernelPerSample(nn.Module):
    """A convolution whose kernels are made of its input, with the batch as its groups."""

    def __init__(self, bias: bool, **options: int) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(4, CHANNELS, 3, 2))
        self.bias, self.options = bias, options

    def forward(self, x: Tensor) -> Tensor:
        count, styles = x.shape[0], x.mean((2, 3))
        weight = (self.kernels * styles[:, None, :, None, None]).reshape(count * 4, CHANNELS, 3, 2)
        bias = styles.sum(1).repeat_interleave(4) if self.bias else None
        joined = x.reshape(1, count * CHANNELS, HEIGHT, WIDTH)
        found = F.conv2d(joined, weight, bias, groups=count, **self.options)
        return found.reshape(count, 4, *found.shape[2:])


class OneTransposedKernelPerSample(nn.Module):
    """A transposed convolution of `axes` axes with kernels made of its input and the batch as its groups."""

    def __init__(self, axes: int, **options: int) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(CHANNELS, 4, *(3, 2)[:axes]))
        self.axes, self.options = axes, options

    def forward(self, x: Tensor) -> Tensor:
        count, styles = x.shape[0], x.mean((2, 3))
        each = self.kernels * styles.view(count, CHANNELS, *[1] * (self.axes + 1))
        pixels = x if self.axes == 2 else x.flatten(2)
        convolve = F.conv_transpose2d if self.axes == 2 else F.conv_transpose1d
        found = convolve(
            pixels.reshape(1, count * CHANNELS, *pixels.shape[2:]),
            each.flatten(0, 1),
            groups=count,
            **self.options,
        )
        return found.reshape(count, 4, *found.shape[2:])


def one_row_kernel_per_sample(x: Tensor) -> Tensor:
    count = x.shape[0]
    kernels = x.mean(2).reshape(count * CHANNELS, 1, WIDTH)
    found = F.conv1d(x.reshape(1, count * CHANNELS, -1), kernels, padding=2, groups=count * CHANNELS)
    return found.reshape(count, CHANNELS, -1)


def filtered(x: Tensor) -> Tensor:
    angles = torch.arange(WIDTH // 2 + 1) * 0.5
    kept = torch.fft.rfft2(x, norm="ortho") * torch.polar(torch.ones_like(angles), angles)
    return torch.fft.irfft2(kept, s=(HEIGHT, WIDTH), norm="ortho")


def spectrum(x: Tensor) -> Tensor:
    return torch.stft(x.flatten(1), 8, 3, window=WINDOW, return_complex=True).abs()


class Bag(nn.Module):
    def __init__(self, mode: str, padding: int | None) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(9, 4, mode=mode, padding_idx=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.bag((x[:, 0, 0].abs() * 4).long().clamp(0, 8))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "circular padding": lambda: nn.Conv2d(CHANNELS, 2, 3, padding=(1, 2), padding_mode="circular"),
    "circular padding of one side": lambda: Function(lambda x: F.pad(x, (2, 0, 0, 1), mode="circular")),
    "zero padding": lambda: Function(lambda x: F.pad(x, (2, 0, 0, 1))),
    "antialiased, by sizes": lambda: Function(
        lambda x: F.interpolate(x, size=(4, 7), mode="bilinear", antialias=True)
    ),
    "antialiased, by factors": lambda: Function(
        lambda x: F.interpolate(x, scale_factor=(0.5, 0.7), mode="bicubic", antialias=True)
    ),
    "antialiased, corners": lambda: Function(
        lambda x: F.interpolate(x, size=(3, 3), mode="bilinear", antialias=True, align_corners=True)
    ),
    "one kernel per sample": lambda: OneKernelPerSample(bias=False, padding=1),
    "one kernel per sample, strided": lambda: OneKernelPerSample(bias=True, stride=2, dilation=2, padding=2),
    "one transposed kernel per sample": lambda: OneTransposedKernelPerSample(2, padding=1),
    "one transposed kernel per sample, strided": lambda: OneTransposedKernelPerSample(
        2, stride=3, dilation=2, output_padding=1
    ),
    "one transposed kernel per sample, of rows": lambda: OneTransposedKernelPerSample(1, stride=2),
    "one kernel per channel of each sample, of rows": lambda: Function(one_row_kernel_per_sample),
    "filter of frequencies": lambda: Function(filtered),
    "frequencies of two axes": lambda: Function(lambda x: torch.fft.fft2(x).abs()),
    "frequencies of batches": lambda: Function(lambda x: torch.fft.ifftn(x, dim=(3, 1)).real),
    "spectrum over time": lambda: Function(spectrum),
    "distances of few rows": lambda: Function(lambda x: torch.cdist(x, x.flip(2) + 0.5)),
    "distances of many rows": lambda: Function(lambda x: torch.cdist(x.mT, torch.ones(40, HEIGHT) * 2)),
    "cumulative product": lambda: Function(lambda x: torch.cumprod(x, 2) + torch.cumprod(x, -1)),
    "hypotenuse": lambda: Function(lambda x: torch.hypot(x, x.flip(2))),
    "rows looked up by int32": lambda: Function(
        lambda x: torch.arange(36.0).view(9, 4)[(x.abs() * 4).int().clamp(0, 8)]
    ),
    "rows written by int32": lambda: Function(
        lambda x: (
            torch.zeros(9, WIDTH).index_put((x[0, 0, :, 0].int().clamp(0, 8),), x[0, 0], accumulate=True)
            + x[:, :1, :1]
        )
    ),
    "bag of words": lambda: Bag("mean", None),
    "largest of a bag": lambda: Bag("max", 0),
    "sum of a bag": lambda: Bag("sum", 1),
    "shifts": lambda: Function(shifts),
    "rrelu": lambda: nn.RReLU(0.1, 0.3),
}


def exported(module: nn.Module, x: Tensor, expected: Tensor, opset: int) -> bytes:
    spec = StageSpec(
        name="odd",
        inputs=(tensor("x", "float32", "batch", *x.shape[1:]),),
        outputs=(tensor("y", "float32", "batch", *expected.shape[1:]),),
    )
    found = onnx_from_stage(Stage(spec=spec, module=module), {"x": x.numpy()}, ExportOptions(opset=opset))
    return found.SerializeToString()


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", sorted(MODULES))
def test_operators_compute_what_torch_computes_on_every_backend(name: str, opset: int) -> None:
    torch.manual_seed(0)
    module, x = MODULES[name]().eval(), torch.randn(3, CHANNELS, HEIGHT, WIDTH)
    with torch.no_grad():
        expected = module(x)
    graph = exported(module, x, expected, opset)
    for backend in ("onnxruntime", "openvino"):
        session = open_session(graph, SessionOptions(backend=backend, name="odd.onnx", threads=1))
        for count in (1, 3):
            found = session.run({"x": x[:count].numpy()})["y"]
            np.testing.assert_allclose(found, expected[:count].numpy(), atol=1e-5, err_msg=backend)


def test_a_bag_by_offsets_is_refused_with_its_line() -> None:
    weight = torch.randn(9, 4)
    module = Function(lambda x: F.embedding_bag((x.abs() * 4).long().flatten(), weight, torch.tensor([0, 5])))
    x = torch.zeros(2, CHANNELS, HEIGHT, WIDTH)
    with pytest.raises(UsageError, match="embedding_bag with offsets cannot be exported"):
        exported(module, x, torch.zeros(2, 4), 20)


@pytest.mark.parametrize("function", [torch.linalg.inv, torch.erfinv])
def test_an_operator_that_torch_decomposes_is_refused_with_its_line(
    function: Callable[[Tensor], Tensor],
) -> None:
    x = torch.zeros(2, CHANNELS, WIDTH, WIDTH)
    with pytest.raises(UsageError, match=r"ONNX has no .*inv.*test_exact_translations\.py:\d+"):
        exported(Function(function), x, x, 20)
