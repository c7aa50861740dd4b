"""float16 graphs: weights and activations in half, float32 where half would hurt.

Where that is, is found on real prompts: values that come near to overflowing, and whatever decides a code
(the products that ArgMin and ArgMax look at). If codes or picture still miss the tolerance, the fewest
modules that mend it, counted from the output backwards, are float32 too. Where that makes a graph no smaller
than float32 from weights stored in int8 or half, where that is exact, the stage is computed so. Inputs and
outputs keep their types.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from textual_vision.export.graph.constants import consumers_of
from textual_vision.export.graph.strip_weights import expose_tensors, strip_weights
from textual_vision.export.host.parallel import parallel_map
from textual_vision.export.model.batch import ReferenceBatch, batches_of_stage
from textual_vision.export.parity.tolerance import TOLERANCES
from textual_vision.export.parity.verdict import forced_parity
from textual_vision.export.precision.fp16_cast import fp16_graph_from_float, infer_types, is_float32
from textual_vision.export.precision.lossless_storage import compressed_graph
from textual_vision.export.precision.registry import FloatGraphs, PrecisionGraphs
from textual_vision.export.results import FAIL, StageParity
from textual_vision.export.sessions.cached import CachingSession
from textual_vision.export.sessions.opening import open_own_graph, open_sessions
from textual_vision.runtime.backends.session import Session, SessionOptions
from textual_vision.runtime.manifest import StageSpec

Fp16Stage = tuple[bytes, dict[str, str]]

MAX_FP16 = 65504.0
HEADROOM = 4.0  # other prompts may give larger values than those looked at
ARGMAX_OPS = ("ArgMin", "ArgMax", "TopK")
BACKEND = "onnxruntime"
CHECKED_BATCHES = 4  # looked at for overflow and accuracy
# One wrong code is seen: .12 % of them brought the emoji model's pictures down to between 38 and 41 dB.
MIN_CODE_AGREEMENT = 0.9995
# From what decides, back through what only moves or combines, to the product that it compares.
TRANSPARENT_OPS = ("Add", "Sub", "Mul", "Neg", "Reshape", "Transpose", "Squeeze", "Unsqueeze")


def fp16_from_float(source: FloatGraphs) -> PrecisionGraphs:
    """A half graph for every stage, and which nodes stayed in float32 and why, per stage."""
    graphs: dict[str, bytes] = {}
    notes: dict[str, object] = {}
    for stage in source.stages:
        made: Fp16Stage = source.stage_results.get(stage.name) or fp16_stage_from_float(source, stage)
        graphs[stage.name], fp32_nodes = made
        notes[stage.name] = {"float32": fp32_nodes}
    return PrecisionGraphs(graphs=graphs, notes=notes)


def fp16_stage_from_float(source: FloatGraphs, stage: StageSpec) -> Fp16Stage:
    """The half graph, and the nodes that stay in float32 with the reason; other stages do not matter."""
    graph, batches = source.fp32[stage.name], source.batches
    model = onnx.load_from_string(graph)
    fp32_nodes = _feeding_argmax(model)
    fp32_nodes.update(_unsupported_transpositions(model))
    for node, largest in _overflowing(stage, graph, model, batches[:CHECKED_BATCHES]).items():
        fp32_nodes.setdefault(node, f"values up to {largest:.3g}")
    made = fp16_graph_from_float(graph, set(fp32_nodes))
    if _is_accepted(first := _parity_of_graph(stage, made, batches)):
        return made, fp32_nodes
    exact, scopes = compressed_graph(graph), _scopes(model)
    # More float32 makes no graph smaller: where half itself is too large, all are.
    too_few, enough, found = 0, len(scopes) if len(made) < len(exact) else 0, None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        chosen = set(scopes[:middle])
        trial = {**{n.name: "accuracy" for n in model.graph.node if _scope(n.name) in chosen}, **fp32_nodes}
        made = fp16_graph_from_float(graph, set(trial))
        if len(made) >= len(exact):
            enough = middle
        elif _is_accepted(_parity_of_graph(stage, made, batches)):
            enough, found = middle, (made, trial)
        else:
            too_few = middle
    return found or (exact, {"all": f"in half {_rejection_reason(first)}; float32"})


def _parity_of_graph(stage: StageSpec, graph: bytes, batches: Sequence[ReferenceBatch]) -> StageParity:
    """By all batches where some find nothing wrong."""
    session = CachingSession(open_sessions({stage.name: graph}, BACKEND, threads=1)[stage.name])
    parity = _parity(stage, session, batches[:CHECKED_BATCHES])
    return (
        _parity(stage, session, batches)
        if _is_accepted(parity) and len(batches) > CHECKED_BATCHES
        else parity
    )


def _is_accepted(parity: StageParity) -> bool:
    codes = parity.codes
    return parity.verdict != FAIL and (codes is None or codes.agreement >= MIN_CODE_AGREEMENT)


def _rejection_reason(parity: StageParity) -> str:
    codes = parity.codes
    return parity.reason if codes is None else f"{1 - codes.agreement:.2%} of the codes were others"


def _feeding_argmax(model: onnx.ModelProto) -> dict[str, str]:
    """What chooses codes, and everything back to the product that it compares."""
    producer = {output: node for node in model.graph.node for output in node.output}
    found: dict[str, str] = {}
    waiting = [node for node in model.graph.node if node.op_type in ARGMAX_OPS]
    while waiting:
        node = waiting.pop()
        if node.name in found:
            continue
        found[node.name] = "decides a code"
        for name in node.input:
            before = producer.get(name)
            if before is not None and (
                before.op_type in TRANSPARENT_OPS or before.op_type in ("MatMul", "Gemm")
            ):
                if node.op_type in ("MatMul", "Gemm"):
                    continue
                waiting.append(before)
    return found


def _unsupported_transpositions(model: onnx.ModelProto) -> dict[str, str]:
    """Transpositions that ONNX Runtime 1.32 cannot load in float16: it ends the process.

    MatmulTransposeFusion takes transpositions that move axis 0 to one of the last two places. In float16 it
    meets the Cast that ONNX Runtime itself inserts before the MatMul, and dereferences null.
    """
    consumers = consumers_of(model)
    found = {}
    for node in model.graph.node:
        perm = next((list(one.ints) for one in node.attribute if one.name == "perm"), [])
        rest = list(range(1, len(perm)))
        if (
            node.op_type != "Transpose"
            or len(perm) < 3
            or perm not in ([*rest, 0], [*rest[:-1], 0, rest[-1]])
        ):
            continue
        if any(reader.op_type == "MatMul" for reader in consumers.get(node.output[0], [])):
            found[node.name] = "ONNX Runtime cannot load it in float16"
    return found


def _overflowing(
    stage: StageSpec, graph: bytes, model: onnx.ModelProto, batches: Sequence[ReferenceBatch]
) -> dict[str, float]:
    """Nodes that read or give values near half's largest on real prompts: the largest of each. `model` is the
    graph read.
    """
    largest = _largest_values(stage, graph, model, batches)
    found = {}
    for node in model.graph.node:
        value = max((largest.get(name, 0.0) for name in (*node.input, *node.output)), default=0.0)
        if not value * HEADROOM <= MAX_FP16:
            found[node.name] = value
    return found


def _largest_values(
    stage: StageSpec, graph: bytes, model: onnx.ModelProto, batches: Sequence[ReferenceBatch]
) -> dict[str, float]:
    """The largest absolute value of every float tensor on its way through the graph, constants included."""
    shown = infer_types(strip_weights(model))
    names = [o.name for n in shown.graph for o in n.outputs if o.name and is_float32(o)]
    given = {output.name for output in model.graph.output}
    watched = expose_tensors(graph, [name for name in names if name not in given])
    options = SessionOptions(backend=BACKEND, name=f"{stage.name}.onnx", threads=1, trusted=True)
    session = open_own_graph(watched, options)
    largest = {
        tensor.name: float(np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0.0))
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    inputs = [
        {tensor.name: batch.tensors[tensor.name] for tensor in stage.inputs}
        for batch in batches_of_stage(batches, stage)
    ]
    for outputs in parallel_map(session.run, inputs):
        for name in names:
            here = float(np.abs(outputs[name]).max(initial=0.0))
            largest[name] = np.inf if np.isnan(here) else max(largest.get(name, 0.0), here)
    return largest


def _parity(stage: StageSpec, session: Session, batches: Sequence[ReferenceBatch]) -> StageParity:
    return forced_parity(stage, session, batches, tolerance=TOLERANCES["fp16"], backend=BACKEND)


def _scopes(model: onnx.ModelProto) -> list[str]:
    """The modules of the graph, the last first: the nearer to the output, the cheaper to keep."""
    return list(dict.fromkeys(_scope(node.name) for node in reversed(model.graph.node)))


def _scope(name: str) -> str:
    return name.rpartition("/")[0]
