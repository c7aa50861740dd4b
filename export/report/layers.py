"""Find the layers where a lower precision loses accuracy: their signal-to-noise ratio.

The float32 graph and the others run on the same inputs, with the outputs of their layers exposed. Layers of
two graphs correspond when their outputs have the same name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from textual_vision.export.graph.strip_weights import expose_tensors
from textual_vision.export.host.parallel import parallel_map
from textual_vision.export.model.batch import Array, ReferenceBatch, batches_of_stage
from textual_vision.runtime.backends.session import SessionOptions, open_session
from textual_vision.runtime.manifest import StageSpec

LAYER_OPS = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "Softmax",
        "LayerNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "RMSNormalization",
    }
)
MEASURED, IDENTICAL, NOT_FINITE = "measured", "identical", "not finite"


@dataclass(frozen=True, kw_only=True)
class LayerRatio:
    """One layer's signal-to-noise ratio in dB: the power of its float32 output over that of the error.

    `state` says why `db` is None: the outputs are identical, or one is not finite.
    """

    name: str
    op: str
    db: float | None
    state: str


def layer_ratios(
    stage: StageSpec, reference: bytes, others: Mapping[str, bytes], batch: ReferenceBatch, backend: str
) -> dict[str, tuple[LayerRatio, ...]]:
    """Return, for each of the `others`, the ratios of its layers that `reference` has too, in order."""
    nodes = {node.output[0]: node for node in onnx.load_from_string(reference).graph.node}
    layers = [name for name, node in nodes.items() if node.op_type in LAYER_OPS]
    (first, *_) = batches_of_stage([batch], stage)
    inputs = {spec.name: first.tensors[spec.name] for spec in stage.inputs}
    expected, *outputs = parallel_map(
        lambda graph: _outputs(graph, layers, inputs, backend), [reference, *others.values()]
    )
    return {
        precision: tuple(
            _ratio(nodes[name].name or name, nodes[name].op_type, expected[name], found[name])
            for name in layers
            if name in found and expected[name].shape == found[name].shape
        )
        for precision, found in zip(others, outputs, strict=True)
    }


def _outputs(
    graph: bytes, names: Sequence[str], inputs: Mapping[str, Array], backend: str
) -> dict[str, Array]:
    """Run the graph and return those of the tensors `names` that it has."""
    options = SessionOptions(backend=backend, name="graph with its layers exposed", threads=1, trusted=True)
    read = onnx.load_from_string(graph).graph
    made = {name for node in read.node for name in node.output} - {output.name for output in read.output}
    exposed = expose_tensors(graph, [name for name in names if name in made])
    return open_session(exposed, options).run(inputs)


def _ratio(name: str, op: str, expected: Array, found: Array) -> LayerRatio:
    signal, noisy = expected.astype(np.float64), found.astype(np.float64)
    if not (np.isfinite(signal).all() and np.isfinite(noisy).all()):
        return LayerRatio(name=name, op=op, db=None, state=NOT_FINITE)
    noise = float(np.square(signal - noisy).sum())
    if noise == 0.0:
        return LayerRatio(name=name, op=op, db=None, state=IDENTICAL)
    power = max(float(np.square(signal).sum()), 1e-30)
    return LayerRatio(name=name, op=op, db=10.0 * math.log10(power / noise), state=MEASURED)
