"""LSTM, GRU and RNN of any length, packed or padded, become ONNX's own operators with torch's results."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from textual_vision.export.tracing.recurrent import exportable_recurrence, recurrent_translations

LENGTHS = ((4, 7, 1), (2, 2, 2))
TOLERANCE = 1e-6


class Recurrent(nn.Module):
    """A recurrent layer over padded rows, as users write it."""

    def __init__(self, kind, packed, **options):
        super().__init__()
        self.packed, self.batch_first = packed, options.get("batch_first", False)
        self.rnn = kind(5, 6, **options)

    def forward(self, x, mask):
        lengths = mask.sum(1)
        x = x if self.batch_first else x.transpose(0, 1)
        if self.packed:
            x = pack_padded_sequence(x, lengths.cpu(), self.batch_first, enforce_sorted=False)
        states, last = self.rnn(x)
        if self.packed:
            states, _ = pad_packed_sequence(states, self.batch_first, total_length=mask.shape[1])
        return states, *(last if isinstance(last, tuple) else (last,))


def inputs_of(lengths, tokens, seed=0):
    x = torch.randn(len(lengths), tokens, 5, generator=torch.Generator().manual_seed(seed))
    return x, (torch.arange(tokens) < torch.tensor(lengths)[:, None]).long()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True, "bidirectional": True},
        {"num_layers": 2, "bidirectional": True, "bias": False},
        {"batch_first": True, "num_layers": 2},
    ],
)
def test_the_stand_in_gives_what_torch_gives(kind, packed, options):
    torch.manual_seed(0)
    module = Recurrent(kind, packed, **options).eval()
    for lengths in LENGTHS:
        inputs = inputs_of(lengths, 7)
        with torch.no_grad():
            wanted = module(*inputs)
            with exportable_recurrence():
                found = module(*inputs)
        for one, other in zip(found, wanted, strict=True):
            assert one.shape == other.shape
            assert (one - other).abs().max() < TOLERANCE


def test_the_other_nonlinearity_is_that_of_torch():
    torch.manual_seed(0)
    module = nn.RNN(5, 6, nonlinearity="relu").eval()
    x, _ = inputs_of((4, 7), 7)
    with torch.no_grad():
        wanted, last = module(x)
        with exportable_recurrence():
            found = module(x)
    assert torch.allclose(found[0], wanted, atol=TOLERANCE)
    assert torch.allclose(found[1], last, atol=TOLERANCE)


def test_torch_is_itself_again_afterwards():
    before = nn.LSTM.forward, pack_padded_sequence
    with exportable_recurrence():
        assert nn.LSTM.forward is not before[0]
    assert (nn.LSTM.forward, pack_padded_sequence) == before


@pytest.mark.filterwarnings("ignore")  # of the exporter, about itself
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_the_graph_takes_other_lengths_than_the_traced_ones(kind):
    torch.manual_seed(0)
    module = Recurrent(kind, True, batch_first=True, bidirectional=True).eval()
    batch, tokens = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("tokens", min=1, max=64)
    shapes = ({0: batch, 1: tokens}, {0: batch, 1: tokens})
    with exportable_recurrence():
        program = torch.export.export(module, inputs_of((4, 7, 1), 7), dynamic_shapes=shapes)
        exported = torch.onnx.export(
            program, dynamo=True, optimize=False, custom_translation_table=recurrent_translations()
        )
    session = onnxruntime.InferenceSession(exported.model_proto.SerializeToString())
    inputs = inputs_of((9, 3), 9, seed=1)
    names = [one.name for one in session.get_inputs()]
    found = session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))
    with torch.no_grad():
        wanted = module(*inputs)
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(one - other.numpy()).max() < TOLERANCE
