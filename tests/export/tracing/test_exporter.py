"""What cannot be exported is said with its module and line; what can is valid in every opset offered."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from textual_vision.export.graph.opset import check, check_opset, opset_newest
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.stage import Stage, tensor
from textual_vision.export.passes.folding import fold_constants
from textual_vision.export.passes.manager import rewrite_graph
from textual_vision.export.passes.measurement import RewriteContext
from textual_vision.export.tracing import exporter as to_onnx
from textual_vision.export.tracing.exporter import ExportOptions, onnx_from_stage
from textual_vision.runtime.backends.session import SessionOptions, open_session
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import StageSpec

SPEC = StageSpec(
    name="odd",
    inputs=(tensor("x", "float32", "batch", 4, 4),),
    outputs=(tensor("y", "float32", "batch", 4, 4),),
)
EXAMPLE = {"x": np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 4, 4)}


class Exponential(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(x)  # ONNX has none


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Exponential()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * 2


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x


class Condition(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y + 1, (x,))
        return found


class BiasedAttention(nn.Module):
    """Attention whose mask is trained, its heads joined by a view."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(2, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(2, (2, 2)).transpose(1, 2)
        found = nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=self.bias[None])
        return found.transpose(1, 2).flatten(2)


class LongAndShort(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > 2:
            return x * 2
        return x


class MiddleToken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x[:, x.shape[1] // 2, None]


class ExtraKey(nn.Module):
    """Attention with a key of its own, so that there is one key more than tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True)

    def forward(self, x: Tensor) -> Tensor:
        padding = x[..., 0] < -1e9
        found: Tensor = self.attention(x, x, x, key_padding_mask=padding)[0]
        return found


class Lengths(nn.Module):
    """Reductions, which tell their axes otherwise before opset 18."""

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True) - x.amax(1, keepdim=True)


class Film(nn.Module):
    """Split, GELU, LayerNorm, ReduceSum: what changed between opsets."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = nn.functional.gelu(self.norm(x)).chunk(2, dim=2)
        return torch.cat([b, a], dim=2) + x.sum(2, keepdim=True)


class OneSize(nn.Module):
    """Its code looks at how many prompts there are."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if len(x) == 2 else x


class OneSizeOfTwo(nn.Module):
    """The same after a line that only compares the sizes of its inputs with each other."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        mean = (x * mask.unsqueeze(2)).sum(1)
        return torch.cat([mean, mean.new_zeros(len(x), 4)], 1)


class Attention(nn.Module):
    """Chunks in a row of three, and attention with a mask for all queries."""

    def forward(self, x: Tensor) -> Tensor:
        mask = (x[:, None, None, :, 0] > 0).float() * -1e4
        queries, keys, values = (part.unsqueeze(1) for part in torch.stack([x, x + 1, x * 2]).unbind(0))
        found = nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        left, right = found.squeeze(1).split(2, dim=2)
        return torch.cat([right, left], dim=2)


def exported(module: nn.Module, opset: int = 20) -> onnx.ModelProto:
    return onnx_from_stage(Stage(spec=SPEC, module=module), EXAMPLE, ExportOptions(opset=opset))


def test_an_operator_that_onnx_lacks_is_named_with_its_module_and_line() -> None:
    with pytest.raises(UsageError) as error:
        exported(Odd())
    message = error.value.message
    assert "stage 'odd'" in message and "linalg_matrix_exp" in message
    assert "'inner (Exponential)'" in message
    assert "test_exporter.py:" in message and "return torch.linalg.matrix_exp(x)" in message
    assert "docs/how-to/custom-model.md" in error.value.hint
    assert "\n" not in message


def test_a_branch_on_values_is_named_with_its_line() -> None:
    with pytest.raises(UsageError, match=r"test_exporter\.py:\d+") as error:
        exported(Branching())
    assert "\n" not in error.value.message


def test_control_flow_is_named_with_its_line() -> None:
    torch._dynamo.reset()  # torch.cond compiles, and fails on what other tests left compiled
    tensors = {**EXAMPLE, "y": Condition()(torch.from_numpy(EXAMPLE["x"])).numpy()}
    batch = ReferenceBatch(prompts=("",) * 2, seeds=(0, 0), tensors=tensors, margins={}, fixed_length=True)
    context = RewriteContext(stage=SPEC, batch=batch, backend="onnxruntime", target="cpu")
    graph = exported(Condition()).SerializeToString()
    with pytest.raises(
        UsageError, match=r"'odd' .*: a bundle may not hold If at test_exporter.py:\d+: found"
    ):
        rewrite_graph(graph, context)


def test_code_that_decides_by_the_number_of_tokens_is_named_with_its_condition_and_the_way_out() -> None:
    tokens = tensor("x", "float32", "batch", "tokens", 4)
    spec = StageSpec(name="odd", inputs=(tokens,), outputs=(tensor("y", "float32", "batch", "tokens", 4),))
    with pytest.raises(
        UsageError, match=r"its code needs 3 <= tokens .* test_exporter.py:.*: if x.shape"
    ) as caught:
        onnx_from_stage(Stage(spec=spec, module=LongAndShort()), EXAMPLE, ExportOptions(max_tokens=8))
    assert "--prompt-length" in caught.value.hint


@pytest.mark.parametrize("kind", [MiddleToken, ExtraKey])
def test_code_that_holds_for_every_number_of_tokens_is_exported_though_torch_cannot_prove_it(kind) -> None:
    torch.manual_seed(0)
    module = kind().eval()
    x = tensor("x", "float32", "batch", "tokens", 4)
    spec = StageSpec(name="odd", inputs=(x,), outputs=(tensor("y", "float32", "batch", "tokens", 4),))
    model = onnx_from_stage(Stage(spec=spec, module=module), EXAMPLE, ExportOptions(max_tokens=6))
    session = open_session(model.SerializeToString(), SessionOptions(backend="onnxruntime", name="odd"))
    for tokens in range(1, 7):
        given = torch.randn(2, tokens, 4)
        with torch.no_grad():
            expected = module(given).numpy()
        np.testing.assert_allclose(session.run({"x": given.numpy()})["y"], expected, atol=1e-5)


def test_code_that_works_for_one_size_of_batch_only_is_named_with_its_line() -> None:
    with pytest.raises(UsageError) as error:
        exported(OneSize())
    message = error.value.message
    assert "more than one size of batch" in message and "makes it 2 at test_exporter.py:" in message
    assert message.endswith("return x * 2 if len(x) == 2 else x")
    assert "operators" not in error.value.hint


def test_a_line_that_compares_sizes_with_each_other_is_not_blamed_for_a_constant_one() -> None:
    spec = StageSpec(
        name="odd",
        inputs=(tensor("x", "float32", "batch", "tokens", 4), tensor("mask", "float32", "batch", "tokens")),
        outputs=(tensor("y", "float32", "batch", 8),),
    )
    example = {"x": np.ones((3, 5, 4), np.float32), "mask": np.ones((3, 5), np.float32)}
    with pytest.raises(UsageError) as error:
        onnx_from_stage(Stage(spec=spec, module=OneSizeOfTwo()), example, ExportOptions(opset=20))
    assert "makes it 3" in error.value.message
    assert error.value.message.endswith("return torch.cat([mean, mean.new_zeros(len(x), 4)], 1)")


def test_another_opset_than_the_one_asked_for_is_refused(monkeypatch) -> None:
    """Torch's exporter keeps the opset that it began with where it can't convert, and says nothing."""
    write = to_onnx._program_from_stage
    monkeypatch.setattr(
        to_onnx,
        "_program_from_stage",
        lambda stage, example, _: write(stage, example, ExportOptions(opset=18)),
    )
    with pytest.raises(UsageError, match="wrote opset 18, not 20"):
        exported(Lengths(), 20)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", [Lengths, Film, Attention, BiasedAttention])
@pytest.mark.parametrize("opset", [17, 18, 20, opset_newest()])
def test_graphs_of_every_opset_compute_what_pytorch_computes(
    opset: int, kind: type[nn.Module], backend: str
) -> None:
    pytest.importorskip(backend)
    module = kind()
    exact = ir.from_proto(exported(module, opset))
    assert exact.opset_imports[""] == opset
    fold_constants(exact)
    graph = ir.to_proto(exact)
    check(graph)
    session = open_session(graph.SerializeToString(), SessionOptions(backend=backend, name="odd"))
    for batch in (1, 2):
        x = EXAMPLE["x"][:batch]
        with torch.no_grad():
            expected = module(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(session.run({"x": x})["y"], expected, atol=2e-6)


@pytest.mark.parametrize("opset", [7, 16, opset_newest() + 1])
def test_an_opset_that_cannot_be_written_is_refused_with_the_range(opset: int) -> None:
    with pytest.raises(UsageError, match=f"opset {opset}: the installed tools write 17 to {opset_newest()}"):
        check_opset(opset)
