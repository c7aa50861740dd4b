"""Random small networks of common parts give in fp32, fp16 and int8 what PyTorch gives."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from textual_vision.export.graph.opset import check
from textual_vision.export.int8.layers import INT8, default_modes, quantizable_layers
from textual_vision.export.int8.observer import calibrate_ranges
from textual_vision.export.int8.qdq import quantize_graph
from textual_vision.export.int8.stage import prepare_graph
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.module_checks import prepared_module
from textual_vision.export.model.stage import Stage, tensor
from textual_vision.export.passes.manager import rewrite_graph
from textual_vision.export.passes.measurement import RewriteContext
from textual_vision.export.precision.fp16 import fp16_from_float
from textual_vision.export.precision.registry import FloatGraphs
from textual_vision.export.tracing.exporter import ExportOptions, onnx_from_stage
from textual_vision.runtime.backends.session import SessionOptions, open_session
from textual_vision.runtime.generation.program import Program
from textual_vision.runtime.manifest import StageSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
HEIGHT, WIDTH = 4, 6  # pixels of the input
BACKENDS = ("onnxruntime", "openvino")
FLOAT_TOLERANCE, HALF_TOLERANCE, INT8_TOLERANCE = 1e-4, 2e-2, 0.35  # relative, of the root mean square


class Flattened(nn.Module):
    """Applies a part to the positions (batch, height * width, channels) of a picture."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.part(x.flatten(2).transpose(1, 2))
        return y.transpose(1, 2).unflatten(2, tuple(x.shape[2:]))


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.attention(x, x, x, need_weights=False)[0]
        return x + found


class Rows(nn.Module):
    """A one-dimensional convolution along the positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.conv(x.flatten(2))
        return found.unflatten(2, tuple(x.shape[2:]))


class Depth(nn.Module):
    """A three-dimensional convolution of one picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.conv(x.unsqueeze(2))
        return found.squeeze(2)


class Twice(nn.Module):
    """One part that is applied two times."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.part(torch.tanh(self.part(x)))
        return found


class Gate(nn.Module):
    """Two products of one input with biases of one number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.left, self.right = (nn.Parameter(torch.randn(width, width) / width**0.5) for _ in range(2))
        self.bias = nn.Parameter(torch.randn(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ self.left + self.bias) * torch.sigmoid(x @ self.right + self.bias)


class Film(nn.Module):
    """Scales and shifts channels by what their means say."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, shift = self.linear(x.mean((2, 3)))[:, :, None, None].chunk(2, 1)
        return x * (1 + scale) + shift


class Function(nn.Module):
    """A part by a function of its input, a convolution before it."""

    def __init__(self, width: int, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(width, width, 1), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.conv(x))


class Cropped(nn.Module):
    """The first pixels of what a part makes larger."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.part(x)
        return found[:, :, : x.shape[2], : x.shape[3]]


class MaskedAttention(nn.Module):
    """Attention of rotated queries among the positions whose first channel is not small."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, 3 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        queries, keys, values = (part.unsqueeze(1) for part in self.projection(x).chunk(3, 2))
        places = torch.arange(x.shape[1], dtype=torch.float32)[:, None] / 5
        queries = queries * places.cos() + queries.roll(1, 3) * places.sin()
        mask = (x[:, None, None, :, 0].abs() > 1e-3).expand(-1, 1, x.shape[1], -1)
        return x + F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask).squeeze(1)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], width: int) -> None:
        super().__init__()
        self.recurrent = kind(width, width, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.recurrent(x)[0].chunk(2, 2)
        found: torch.Tensor = left + right
        return found


class Modulated(nn.Module):
    """One kernel for each sample, by the batch as groups."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width, 3, 3) / (3 * width**0.5))
        self.style = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, width = x.shape[0], x.shape[1]
        weight = self.weight * (1 + self.style(x.mean((2, 3))))[:, None, :, None, None]
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        joined = x.reshape(1, count * width, *x.shape[2:])
        found = F.conv2d(joined, weight.reshape(count * width, width, 3, 3), padding=1, groups=count)
        return found.reshape(x.shape)


class DoubleTable(nn.Module):
    """Factors in double precision."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("factors", torch.linspace(0.5, 2, width, dtype=torch.float64)[:, None, None])
        self.conv = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.conv((x.double() * self.factors).float())
        return found


def products(x: torch.Tensor) -> torch.Tensor:
    among_channels = torch.einsum("bchw,bdhw->bcd", x, x) / (HEIGHT * WIDTH)
    return torch.einsum("bcd,bdhw->bchw", among_channels, x)


def assigned(x: torch.Tensor) -> torch.Tensor:
    found = x.clone()
    found[:, ::2, 1:] = 0.5
    found[:, 1, 0, 0] += 1
    return found


# kernel, stride, padding, output padding, dilation, one group or as many as channels
TRANSPOSED = (
    (2, 2, 0, 0, 1, False),
    (3, 2, 1, 1, 1, False),
    (3, 1, 1, 0, 1, True),
    (4, 2, 1, 0, 1, True),
    (5, 2, 2, 1, 1, False),
    (5, 3, 1, 0, 1, True),
    (3, 2, 2, 1, 2, False),
    (8, 4, 2, 0, 1, False),
    ((3, 4), (1, 2), (1, 1), 0, 1, False),
)


def transposed(
    width: int, kernel: Any, stride: Any, padding: Any, extra: int, step: int, apart: bool
) -> nn.Module:
    groups = width if apart else 1
    return Cropped(
        nn.ConvTranspose2d(width, width, kernel, stride, padding, extra, groups=groups, dilation=step)
    )


def resized(size: tuple[int, int], **options: Any) -> Callable[[int], nn.Module]:
    """Resized to `size` and back."""

    def change(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(F.interpolate(x, size=size, **options), size=(HEIGHT, WIDTH), mode="bilinear")

    return lambda width: Function(width, change)


# Each makes a part from (batch, width, height, width) to the same number of channels.
PARTS: Mapping[str, Callable[[int], nn.Module]] = {
    "conv": lambda width: nn.Conv2d(width, width, 3, padding=1),
    "conv without bias": lambda width: nn.Conv2d(width, width, 1, bias=False),
    "grouped conv": lambda width: nn.Conv2d(width, width, 3, padding=1, groups=width),
    "conv with batch norm": lambda width: nn.Sequential(nn.Conv2d(width, width, 3, padding=1), norm(width)),
    "conv1d": Rows,
    "conv3d": Depth,
    "transposed": lambda width: nn.Sequential(nn.ConvTranspose2d(width, width, 4, 2, 1), nn.AvgPool2d(2)),
    "transposed twice": lambda width: nn.Sequential(
        Twice(nn.ConvTranspose2d(width, width, 4, 2, 1)), nn.MaxPool2d(4)
    ),
    "linear": lambda width: Flattened(nn.Linear(width, width)),
    "linear twice": lambda width: Flattened(Twice(nn.Linear(width, width))),
    "gate": lambda width: Flattened(Gate(width)),
    "film": Film,
    "film twice": lambda width: Twice(Film(width)),
    "attention": lambda width: (
        Flattened(Attention(2 * ((width + 1) // 2))) if width % 2 == 0 else nn.Identity()
    ),
    "layer norm": lambda width: Flattened(nn.LayerNorm(width)),
    "group norm": lambda width: nn.GroupNorm(1, width),
    "instance norm": lambda width: nn.InstanceNorm2d(width, affine=True),
    "nearest": lambda width: nn.Sequential(nn.Upsample(scale_factor=2), nn.MaxPool2d(2)),
    "bilinear": lambda width: nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.AvgPool2d(2)),
    "shuffle": lambda width: nn.Sequential(
        nn.Conv2d(width, 4 * width, 1), nn.PixelShuffle(2), nn.AvgPool2d(2)
    ),
    **{
        f"transposed {options}": lambda width, options=options: transposed(width, *options)
        for options in TRANSPOSED
    },
    "dilated conv": lambda width: nn.Conv2d(width, width, 3, padding=2, dilation=2),
    "tall and wide conv": lambda width: nn.Sequential(
        nn.Conv2d(width, width, (5, 1), padding=(2, 0)), nn.Conv2d(width, width, (1, 3), padding=(0, 1))
    ),
    "same conv of an even kernel": lambda width: nn.Conv2d(width, width, (4, 2), padding="same"),
    "circular conv": lambda width: nn.Conv2d(width, width, 3, padding=1, padding_mode="circular"),
    "reflected conv": lambda width: nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect"),
    "weight norm": lambda width: parametrizations.weight_norm(nn.Conv2d(width, width, 1)),
    "spectral norm": lambda width: nn.utils.spectral_norm(nn.Conv2d(width, width, 1)),
    "rms norm": lambda width: Flattened(nn.RMSNorm(width)),
    "picture norm": lambda width: nn.LayerNorm([width, HEIGHT, WIDTH]),
    "pixel norm": lambda width: Function(
        width, lambda x: x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)
    ),
    "local norm": lambda width: nn.LocalResponseNorm(3),
    "modulated conv": Modulated,
    "masked attention": lambda width: Flattened(MaskedAttention(width)),
    "transformer layer": lambda width: Flattened(
        nn.TransformerEncoderLayer(width, 1, 2 * width, batch_first=True, activation="gelu", norm_first=True)
    ),
    "lstm": lambda width: Flattened(Recurrent(nn.LSTM, width)),
    "gru": lambda width: Flattened(Recurrent(nn.GRU, width)),
    "rnn": lambda width: Flattened(Recurrent(nn.RNN, width)),
    "bilinear product": lambda width: Function(width, products),
    "adaptive pooling": lambda width: nn.Sequential(
        nn.AdaptiveAvgPool2d((2, 3)), nn.Upsample((HEIGHT, WIDTH), mode="bilinear", align_corners=True)
    ),
    "largest of each half": lambda width: nn.Sequential(
        nn.AdaptiveMaxPool2d((2, 3)), nn.Upsample((HEIGHT, WIDTH), mode="bicubic")
    ),
    "antialiased": resized((3, 5), mode="bilinear", antialias=True),
    "antialiased bicubic": resized((3, 4), mode="bicubic", antialias=True),
    "bicubic": resized((8, 12), mode="bicubic"),
    "unfolded": lambda width: Function(
        width, lambda x: F.fold(F.unfold(x, 3, padding=1), (HEIGHT, WIDTH), 3, padding=1) / 9
    ),
    "unshuffled": lambda width: Function(width, lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2)),
    "sums so far": lambda width: Function(width, lambda x: x.cumsum(2) / 2 + x.flip(3)),
    "chosen": lambda width: Function(width, lambda x: torch.where(x > 0, x.roll(1, 3), 0.1 * x)),
    "sorted": lambda width: Function(width, lambda x: x.sort(1, descending=True).values),
    "gathered": lambda width: Function(
        width, lambda x: x.gather(3, torch.tensor([5, 0, 3, 3, 1, 2]).expand(x.shape))
    ),
    "indexed": lambda width: Function(width, lambda x: x[:, :, [3, 0, 0, 1]][..., torch.arange(5, -1, -1)]),
    "assigned": lambda width: Function(width, assigned),
    "standardized": lambda width: Function(
        width, lambda x: (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 0.1)
    ),
    "double table": DoubleTable,
    "celu": lambda width: nn.CELU(),
    "softplus": lambda width: nn.Softplus(),
    "hardswish": lambda width: nn.Hardswish(),
    "prelu": lambda width: nn.PReLU(width),
    "channel softmax": lambda width: Function(width, lambda x: x.softmax(1) * x.shape[1]),
    "relu": lambda width: nn.ReLU(),
    "gelu": lambda width: nn.GELU(),
    "silu": lambda width: nn.SiLU(),
    "leaky relu": lambda width: nn.LeakyReLU(0.2),
    "mish": lambda width: nn.Mish(),
}
NETWORKS = st.tuples(
    st.sampled_from([5, 8, 16]),
    st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=4),
    st.integers(0, 99),
)


def norm(width: int) -> nn.Module:
    """A batch norm whose statistics are not those of its initialization."""
    found = nn.BatchNorm2d(width)
    nn.init.uniform_(found.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
    nn.init.uniform_(found.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return found


def network(width: int, parts: list[str], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(*(PARTS[name](width) for name in parts), nn.Conv2d(width, 3, 1)).eval()


def relative_error(expected: np.ndarray, found: np.ndarray) -> float:
    size = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    return float(np.sqrt(np.mean(np.square(expected - found, dtype=np.float64)))) / max(size, 1e-6)


def largest_error(graph: bytes, x: np.ndarray, expected: np.ndarray) -> float:
    """The larger relative error of all backends."""
    check(graph)
    errors = []
    for backend in BACKENDS:
        session = open_session(graph, SessionOptions(backend=backend, name="random.onnx", threads=1))
        errors.append(relative_error(expected, session.run({"x": x})["y"]))
    return max(errors)


def check_network(width: int, parts: list[str], seed: int) -> None:
    """The network in fp32, fp16 and int8 stays as near to PyTorch as its precision allows."""
    module = prepared_module("random", network(width, parts, seed))
    spec = StageSpec(
        name="random",
        inputs=(tensor("x", "float32", "batch", width, HEIGHT, WIDTH),),
        outputs=(tensor("y", "float32", "batch", 3, HEIGHT, WIDTH),),
    )
    x = np.random.default_rng(seed).standard_normal((8, width, HEIGHT, WIDTH)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    tensors = {"x": x, "y": expected, "attention_mask": np.ones((8, 1), np.int64)}
    batch = ReferenceBatch(prompts=("",) * 8, seeds=(0,) * 8, tensors=tensors, margins={}, fixed_length=True)
    stage = Stage(module=module, spec=spec)
    exported = onnx_from_stage(stage, {"x": x}, ExportOptions(opset=18, tokens=None, max_tokens=8))
    context = RewriteContext(stage=spec, batch=batch, backend="onnxruntime", target="cpu")
    graphs = rewrite_graph(exported.SerializeToString(), context)
    broken = [one.rewrite for one in graphs.results if "does not load" in one.reason]
    assert not broken
    assert largest_error(graphs.graph, x, expected) < FLOAT_TOLERANCE
    source = FloatGraphs(
        program=Program(stages=(spec,)), fp32={"random": graphs.graph}, batches=[batch], target="cpu"
    )
    assert largest_error(fp16_from_float(source).graphs["random"], x, expected) < HALF_TOLERANCE
    model = prepare_graph(graphs.without_conv_transpose)
    found = calibrate_ranges(model, [{"x": x}], "minmax")
    thresholds = {name: one.threshold for name, one in found.items()}
    quantized = quantize_graph(model, default_modes(quantizable_layers(model), INT8), thresholds)
    assert largest_error(quantized.SerializeToString(), x, expected) < INT8_TOLERANCE


@pytest.mark.parametrize("part", random.Random(0).sample(sorted(PARTS), 5))
def test_a_network_of_one_part_is_right_in_every_precision(part: str) -> None:
    check_network(8, [part], 0)


@pytest.mark.parametrize("parts", [["indexed", "sorted"]])
def test_networks_that_were_wrong_once_are_right(parts: list[str]) -> None:
    check_network(16, parts, 0)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(NETWORKS)
def test_random_networks_are_right_in_every_precision(drawn: tuple[int, list[str], int]) -> None:
    check_network(*drawn)


def test_what_is_compared_would_notice_a_wrong_network() -> None:
    a, b = (network(8, ["conv"], seed)(torch.ones(1, 8, HEIGHT, WIDTH)).detach().numpy() for seed in (0, 1))
    assert relative_error(a, b) > INT8_TOLERANCE
