"""What a model of a user's own consists of, as one digest: the steps of a build are kept under it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from textual_vision.export.model.stage import StagedModel

DEPTH = 6  # of nested settings that are looked at
OF_TORCH = frozenset(vars(nn.Module()))  # attributes that every module has


def fingerprint_of(model: StagedModel, sources: Mapping[str, str]) -> str:
    """SHA-256 over weights, settings of modules, specs, tokenizer and `sources`, digests by file.

    Whatever else is different shows in the pictures that the model generates, which `tried_model` adds.
    """
    found = hashlib.sha256()
    described = dataclasses.replace(model, stages=(), card={})
    about = {one.name: getattr(described, one.name) for one in dataclasses.fields(described)}
    specs = [dataclasses.asdict(stage.spec) for stage in model.stages]
    parts = [_plain(about, DEPTH), specs, [stage.blocks for stage in model.stages], sorted(sources.items())]
    found.update(json.dumps(parts).encode())
    for stage in model.stages:
        for line in _described_module(stage.module):
            found.update(line)
    return found.hexdigest()


def _described_module(module: nn.Module) -> Iterator[bytes]:
    """Every module inside by path and class, with its settings, and its tensors' bytes."""
    for path, one in module.named_modules():
        settings = {name: value for name, value in vars(one).items() if name not in OF_TORCH}
        kind = type(one)
        yield json.dumps([path, f"{kind.__module__}.{kind.__qualname__}", _plain(settings, DEPTH)]).encode()
        own = [*one.named_parameters(recurse=False), *one.named_buffers(recurse=False)]
        for name, value in own:
            yield json.dumps([name, _plain(value, DEPTH)]).encode()


def _plain(value: object, depth: int) -> object:
    """The value as JSON, objects by their class and attributes, tensors and bytes by their digest."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Tensor):
        if is_lazy(value):
            return type(value).__qualname__
        return [str(value.dtype), list(value.shape), _tensor_digest(value)]
    if depth == 0 or isinstance(value, nn.Module):
        return type(value).__qualname__
    if isinstance(value, Mapping):
        return [[_plain(key, depth - 1), _plain(item, depth - 1)] for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    attributes = vars(value) if hasattr(value, "__dict__") and not callable(value) else {}
    return [type(value).__qualname__, _plain(dict(attributes), depth - 1)]


def _tensor_digest(value: Tensor) -> str:
    if value.device.type != "cpu" or value.is_sparse or value.is_quantized:
        return "not read"
    raw = value.detach().contiguous().view(-1).view(torch.uint8) if value.numel() else torch.zeros(0)
    return hashlib.sha256(raw.numpy().tobytes()).hexdigest()
