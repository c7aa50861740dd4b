"""What a stage's module must be before it runs: plain PyTorch in eval mode, its weights there and finite.

Wrappers that only train are taken off, and what depends on the weights alone is computed once.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from textual_vision.export.model.op_watch import train_mode_module
from textual_vision.runtime.errors import UsageError

EVAL_HINT = "put it in eval mode before it is exported: module.eval()"
FLOAT_HINT = "graphs are in float32 or float16: call .float() on the module"
QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")
WEIGHT_DTYPES = (torch.float32, torch.float16)  # of parameters that are floats
WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}


def prepared_module(stage: str, module: nn.Module) -> nn.Module:
    """The module of `stage` without wrappers, checked; what its weights determine is computed in place.

    Raises UsageError, which names the stage and the module or weight.
    """
    while (name := WRAPPERS.get(type(module).__name__)) is not None:
        module = getattr(module, name)
    _check_kinds(stage, module)
    _check_weights(stage, module)
    if (found := train_mode_module(module)) is not None:
        raise UsageError(f"stage {stage!r}: its module {found} is in train mode", EVAL_HINT)
    _normalize_embeddings(module)
    _compute_parametrizations(module)
    return module


def _check_kinds(stage: str, module: nn.Module) -> None:
    for path, one in module.named_modules():
        where = f"stage {stage!r}: its module {path!r}" if path else f"stage {stage!r}: its module"
        if isinstance(one, torch.jit.ScriptModule):
            problem = f"{where} is a {type(one).__name__}, made by torch.jit"
            raise UsageError(problem, "give the nn.Module that it was made of")
        if isinstance(one, torch.fx.GraphModule) and "eval" in vars(one):  # replaced by one that raises
            problem = f"{where} is a program of torch.export"
            raise UsageError(problem, "give the nn.Module that it was exported from")
        if type(one).__module__.startswith(QUANTIZED):
            problem = f"{where} is a {type(one).__name__}, quantized by PyTorch"
            raise UsageError(problem, "give the float module, and quantize it with --precision int8")


def _check_weights(stage: str, module: nn.Module) -> None:
    for name, value in itertools.chain(module.named_parameters(), module.named_buffers()):
        where = f"stage {stage!r}: {name!r}"
        if is_lazy(value):
            raise UsageError(f"{where} has no shape yet", "run the module once, or load its weights")
        if value.device.type != "cpu":
            problem = f"{where} is on the device {value.device}"
            raise UsageError(problem, 'load the weights, and move the module: module.to("cpu")')
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype not in WEIGHT_DTYPES:
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise UsageError(f"stage {stage!r}: the weight {name!r} is of type {dtype}", FLOAT_HINT)
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.isnan().any():
            problem = f"stage {stage!r}: the weight {name!r} holds NaN ({int(value.isnan().sum())} values)"
            raise UsageError(problem, "the checkpoint diverged or is not loaded: take an earlier one")


@torch.no_grad()
def _normalize_embeddings(module: nn.Module) -> None:
    """Embeddings with `max_norm` shorten the rows that they read, in place: here all rows, once."""
    for one in module.modules():
        if isinstance(one, (nn.Embedding, nn.EmbeddingBag)) and one.max_norm is not None:
            rows = torch.arange(one.num_embeddings)
            torch.embedding_renorm_(one.weight.detach(), rows, one.max_norm, one.norm_type)
            one.max_norm = None


def _compute_parametrizations(module: nn.Module) -> None:
    """Parametrized weights become the weights that they compute, which a graph holds as constants."""
    for one in list(module.modules()):
        if parametrize.is_parametrized(one):
            for name in list(one.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(one, name)
