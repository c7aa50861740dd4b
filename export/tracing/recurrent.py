"""Exact stand-ins for LSTM, GRU and RNN modules while a stage is traced, so that any length can be exported.

torch's exporter unrolls a recurrent layer over the length that it sees, and cannot trace packed sequences.
Inside `exportable_recurrence`, `nn.LSTM`, `nn.GRU` and `nn.RNN` compute each direction of each layer by one
operator that becomes ONNX's own, and `pack_padded_sequence` keeps a batch padded with its lengths. A backward
direction reads every row reversed within its own length, so it reads words before padding.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from onnxscript import opset18 as op
from torch import Tensor, nn
from torch.nn.utils import rnn
from torch.nn.utils.rnn import PackedSequence

GATE_BIAS = 1e4  # a sigmoid of ± this is exactly 1 or 0 in float32 and float16


@torch.library.custom_op("textual_vision::lstm", mutates_args=())
def lstm(x: Tensor, h: Tensor, c: Tensor, w: Tensor, r: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states (time, batch, hidden) and the last cell state (batch, hidden) of one direction.

    `x` (time, batch, input); `h`, `c` (batch, hidden); `w` (4 hidden, input), `r` (4 hidden, hidden) and `b`
    (4 hidden), the sum of both biases, in torch's order of gates: input, forget, cell, output.
    """
    weights = [w, r, b, torch.zeros_like(b)]
    states, _, cell = torch._VF.lstm(x, (h[None], c[None]), weights, True, 1, 0.0, False, False, False)
    return states.clone(), cell[0].clone()


@lstm.register_fake
def _(x: Tensor, h: Tensor, c: Tensor, w: Tensor, r: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], x.shape[1], r.shape[1]), x.new_empty(x.shape[1], r.shape[1])


@torch.library.custom_op("textual_vision::gru", mutates_args=())
def gru(x: Tensor, h: Tensor, w: Tensor, r: Tensor, wb: Tensor, rb: Tensor) -> Tensor:
    """Hidden states (time, batch, hidden) of one direction; gates in torch's order: reset, update, new."""
    states, _ = torch._VF.gru(x, h[None], [w, r, wb, rb], True, 1, 0.0, False, False, False)
    return states.clone()


@gru.register_fake
def _(x: Tensor, h: Tensor, w: Tensor, r: Tensor, wb: Tensor, rb: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], r.shape[1])


@torch.library.custom_op("textual_vision::rnn", mutates_args=())
def rnn_direction(
    x: Tensor, h: Tensor, w: Tensor, r: Tensor, wb: Tensor, rb: Tensor, nonlinearity: str
) -> Tensor:
    """Hidden states (time, batch, hidden) of one direction; `nonlinearity` is "tanh" or "relu"."""
    run = torch._VF.rnn_relu if nonlinearity == "relu" else torch._VF.rnn_tanh
    states, _ = run(x, h[None], [w, r, wb, rb], True, 1, 0.0, False, False, False)
    return states.clone()


@rnn_direction.register_fake
def _(x: Tensor, h: Tensor, w: Tensor, r: Tensor, wb: Tensor, rb: Tensor, nonlinearity: str) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], r.shape[1])


def recurrent_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The operators above in ONNX, for torch's exporter."""
    return {
        torch.ops.textual_vision.lstm.default: _onnx_lstm,
        torch.ops.textual_vision.gru.default: _onnx_gru,
        torch.ops.textual_vision.rnn.default: _onnx_rnn,
    }


def _onnx_lstm(x: Any, h: Any, c: Any, w: Any, r: Any, b: Any) -> Any:
    # ONNX orders the gates input, output, forget, cell.
    weights = [_reordered(part, (0, 3, 1, 2), 4) for part in (w, r, b)]
    bias = op.Unsqueeze(
        op.Concat(weights[2], op.Sub(weights[2], weights[2]), axis=0), op.Constant(value_ints=[0])
    )
    first = op.Constant(value_ints=[0])
    states, _, cell = op.LSTM(
        x,
        op.Unsqueeze(weights[0], first),
        op.Unsqueeze(weights[1], first),
        bias,
        None,
        op.Unsqueeze(h, first),
        op.Unsqueeze(c, first),
        hidden_size=r.shape[1],
    )
    return op.Squeeze(states, op.Constant(value_ints=[1])), op.Squeeze(cell, first)


def _onnx_gru(x: Any, h: Any, w: Any, r: Any, wb: Any, rb: Any) -> Any:
    # ONNX orders the gates update, reset, new.
    weights = [_reordered(part, (1, 0, 2), 3) for part in (w, r, wb, rb)]
    first = op.Constant(value_ints=[0])
    states, _ = op.GRU(
        x,
        op.Unsqueeze(weights[0], first),
        op.Unsqueeze(weights[1], first),
        op.Unsqueeze(op.Concat(weights[2], weights[3], axis=0), first),
        None,
        op.Unsqueeze(h, first),
        hidden_size=r.shape[1],
        linear_before_reset=1,
    )
    return op.Squeeze(states, op.Constant(value_ints=[1]))


def _onnx_rnn(x: Any, h: Any, w: Any, r: Any, wb: Any, rb: Any, nonlinearity: str) -> Any:
    first = op.Constant(value_ints=[0])
    states, _ = op.RNN(
        x,
        op.Unsqueeze(w, first),
        op.Unsqueeze(r, first),
        op.Unsqueeze(op.Concat(wb, rb, axis=0), first),
        None,
        op.Unsqueeze(h, first),
        hidden_size=r.shape[1],
        activations=["Relu" if nonlinearity == "relu" else "Tanh"],
    )
    return op.Squeeze(states, op.Constant(value_ints=[1]))


def _reordered(weight: Any, order: tuple[int, ...], gates: int) -> Any:
    size = weight.shape[0] // gates
    starts = [(gate * size, (gate + 1) * size) for gate in order]
    axis = op.Constant(value_ints=[0])
    parts = [
        op.Slice(weight, op.Constant(value_ints=[begin]), op.Constant(value_ints=[end]), axis)
        for begin, end in starts
    ]
    return op.Concat(*parts, axis=0)


@contextlib.contextmanager
def exportable_recurrence() -> Iterator[None]:
    """Recurrent modules of any length, packed or not, can be traced inside; results are those of torch.

    A `PackedSequence` made inside holds the padded batch (time, batch, …) and its lengths, so code that reads
    its `data` by itself sees padding.
    """
    with contextlib.ExitStack() as stack:
        for kind in (nn.LSTM, nn.GRU, nn.RNN):
            stack.enter_context(mock.patch.object(kind, "forward", _forward))
        for original, stand_in in ((rnn.pack_padded_sequence, _pack), (rnn.pad_packed_sequence, _pad)):
            for module, name in _bindings(original):
                stack.enter_context(mock.patch.object(module, name, stand_in))
        yield


def _bindings(function: Callable[..., Any]) -> list[tuple[Any, str]]:
    """Every module and name under which `function` was imported."""
    found = []
    for module in list(sys.modules.values()):
        names = vars(module) if isinstance(module, ModuleType) else {}
        found += [(module, name) for name, value in list(names.items()) if value is function]
    return found


def _pack(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    data = input.transpose(0, 1) if batch_first else input
    return PackedSequence(data, torch.as_tensor(lengths, dtype=torch.int64))


def _pad(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    data, lengths = sequence.data, sequence.batch_sizes
    padded = torch.where(_inside(lengths, data)[:, :, None], data, padding_value)
    return padded.transpose(0, 1) if batch_first else padded, lengths


def _inside(lengths: Tensor, data: Tensor) -> Tensor:
    """Bool (time, batch): whether a place of the padded batch holds an element."""
    return torch.arange(data.shape[0], device=data.device)[:, None] < lengths[None, :]


def _forward(self: Any, input: Any, hx: Any = None) -> Any:
    """`forward` of `nn.LSTM`, `nn.GRU` and `nn.RNN` for padded batches, with the same results."""
    if getattr(self, "proj_size", 0):
        raise RuntimeError("an LSTM with proj_size cannot be exported")
    packed = isinstance(input, PackedSequence)
    lengths = input.batch_sizes if packed else None
    x = input.data if packed else input
    batched = x.dim() == 3
    if not batched:
        x = x.unsqueeze(1)
        hx = None if hx is None else _map(hx, lambda state: state.unsqueeze(1))
    elif self.batch_first and not packed:
        x = x.transpose(0, 1)
    states, last = _layers(self, x, lengths, hx)
    if packed:
        return PackedSequence(states, input.batch_sizes), last
    if not batched:
        return states.squeeze(1), _map(last, lambda state: state.squeeze(1))
    return states.transpose(0, 1) if self.batch_first else states, last


def _map(states: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return tuple(map(change, states)) if isinstance(states, tuple) else change(states)


def _layers(module: Any, x: Tensor, lengths: Tensor | None, hx: Any) -> tuple[Tensor, Any]:
    """States of the last layer (time, batch, directions × hidden) and the last states of all layers."""
    is_lstm = module.mode == "LSTM"
    directions = 2 if module.bidirectional else 1
    hidden, cells = [], []
    for layer in range(module.num_layers):
        outputs = []
        for direction in range(directions):
            index = layer * directions + direction
            zeros = x.new_zeros(x.shape[1], module.hidden_size)
            first = [zeros] * 2 if hx is None else [part[index] for part in (hx if is_lstm else (hx,))]
            suffix = f"l{layer}" + ("_reverse" if direction else "")
            run = DIRECTIONS[module.mode]
            states, *last = run(
                _reversed(x, lengths) if direction else x, first, _weights(module, suffix), lengths
            )
            outputs.append(_reversed(states, lengths) if direction else states)
            hidden.append(last[0])
            cells += last[1:]
        x = torch.cat(outputs, dim=2)
    return x, (torch.stack(hidden), torch.stack(cells)) if is_lstm else torch.stack(hidden)


def _weights(module: Any, suffix: str) -> list[Tensor]:
    weights = [getattr(module, f"{kind}_{suffix}") for kind in ("weight_ih", "weight_hh")]
    if not module.bias:
        return [*weights, *[weights[0].new_zeros(weights[0].shape[0])] * 2]
    return [*weights, *(getattr(module, f"{kind}_{suffix}") for kind in ("bias_ih", "bias_hh"))]


def _lstm_direction(
    x: Tensor, first: list[Tensor], weights: list[Tensor], lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    w, r, wb, rb = weights
    states, cell = torch.ops.textual_vision.lstm(x, *first, w, r, wb + rb)
    if lengths is not None:
        # On padding an added input closes the input gate and opens the forget gate: the cell state stays.
        held = torch.tensor([-GATE_BIAS, GATE_BIAS, 0.0, 0.0], dtype=w.dtype)
        column = held.repeat_interleave(r.shape[1])[:, None]
        padding = (~_inside(lengths, x)).to(x.dtype)[:, :, None]
        wide, x = torch.cat((w, column), dim=1), torch.cat((x, padding), dim=2)
        cell = torch.ops.textual_vision.lstm(x, *first, wide, r, wb + rb)[1]
    return states, _last(states, lengths), cell


def _gru_direction(
    x: Tensor, first: list[Tensor], weights: list[Tensor], lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    states = torch.ops.textual_vision.gru(x, first[0], *weights)
    return states, _last(states, lengths)


def _rnn_direction(
    x: Tensor, first: list[Tensor], weights: list[Tensor], lengths: Tensor | None, *, mode: str
) -> tuple[Tensor, Tensor]:
    states = torch.ops.textual_vision.rnn(x, first[0], *weights, mode)
    return states, _last(states, lengths)


DIRECTIONS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "LSTM": _lstm_direction,
    "GRU": _gru_direction,
    "RNN_TANH": functools.partial(_rnn_direction, mode="tanh"),
    "RNN_RELU": functools.partial(_rnn_direction, mode="relu"),
}


def _last(states: Tensor, lengths: Tensor | None) -> Tensor:
    """The state (batch, hidden) after each row's last element."""
    if lengths is None:
        return states[-1]
    index = (lengths - 1)[None, :, None].expand(1, -1, states.shape[2])
    return states.gather(0, index)[0]


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each row reversed within its length; padding stays where it is."""
    if lengths is None:
        return x.flip(0)
    time = torch.arange(x.shape[0], device=x.device)[:, None]
    index = torch.where(time < lengths, lengths - 1 - time, time)
    return x.gather(0, index[:, :, None].expand(-1, -1, x.shape[2]))
