"""float16 graphs: weights and activations in half, float32 where half would hurt.

Where that is, is found on real prompts: values that come near to overflowing, and whatever decides a code
(the products that ArgMin and ArgMax look at). If the codes or the picture still miss the budget, the fewest
modules that mend it, counted from the output backwards, are float32 too. Where that makes a graph no smaller
than float32 from weights stored in int8 or half, where that is exact, the stage is computed so. Inputs and
outputs keep their types.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from textual_vision.export.graph.strip_weights import with_outputs, without_values
from textual_vision.export.host.parallel import parallel_map
from textual_vision.export.model.batch import Batch
from textual_vision.export.parity.verdict import BUDGETS, forced_parity, open_sessions
from textual_vision.export.precision.fp16_cast import half_from_float, is_float, typed
from textual_vision.export.precision.lossless_storage import stored_exactly
from textual_vision.export.precision.registry import FloatGraphs, PrecisionGraphs
from textual_vision.export.results import FAIL, StageParity
from textual_vision.export.sessions.cached import RememberingSession
from textual_vision.runtime.backends.session import Session, SessionOptions, open_session
from textual_vision.runtime.manifest import StageSpec

HalfStage = tuple[bytes, dict[str, str]]

LARGEST_HALF = 65504.0
HEADROOM = 4.0  # other prompts may give larger values than those looked at
DECIDING = ("ArgMin", "ArgMax", "TopK")
BACKEND = "onnxruntime"
BATCHES = 4  # looked at for overflow and accuracy
# One wrong code is seen: .12 % of them brought the emoji model's pictures down to between 38 and 41 dB.
CODES_WANTED = 0.9995
# From what decides, back through what only moves or combines, to the product that it compares.
BETWEEN = ("Add", "Sub", "Mul", "Neg", "Reshape", "Transpose", "Squeeze", "Unsqueeze")


def fp16_from_float(source: FloatGraphs) -> PrecisionGraphs:
    """A half graph for every stage, and which nodes stayed in float32 and why, per stage."""
    graphs: dict[str, bytes] = {}
    notes: dict[str, object] = {}
    for stage in source.stages:
        made: HalfStage = source.parts.get(stage.name) or half_stage(source, stage)
        graphs[stage.name], islands = made
        notes[stage.name] = {"float32": islands}
    return PrecisionGraphs(graphs=graphs, notes=notes)


def half_stage(source: FloatGraphs, stage: StageSpec) -> HalfStage:
    """The half graph, and the nodes that stay in float32 with the reason; other stages do not matter."""
    graph, batches = source.fp32[stage.name], source.batches
    model = onnx.load_from_string(graph)
    islands = _deciding(model)
    for node, largest in _overflowing(stage, graph, model, batches[:BATCHES]).items():
        islands.setdefault(node, f"values up to {largest:.3g}")
    made = half_from_float(graph, set(islands))
    if _good(first := _judged(stage, made, batches)):
        return made, islands
    exact, scopes = stored_exactly(graph), _scopes(model)
    # More float32 makes no graph smaller: where half itself is too large, all are.
    too_few, enough, found = 0, len(scopes) if len(made) < len(exact) else 0, None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        chosen = set(scopes[:middle])
        trial = {**{n.name: "accuracy" for n in model.graph.node if _scope(n.name) in chosen}, **islands}
        made = half_from_float(graph, set(trial))
        if len(made) >= len(exact):
            enough = middle
        elif _good(_judged(stage, made, batches)):
            enough, found = middle, (made, trial)
        else:
            too_few = middle
    return found or (exact, {"all": f"in half {_fault(first)}; float32"})


def _judged(stage: StageSpec, graph: bytes, batches: Sequence[Batch]) -> StageParity:
    """By all batches where some find nothing wrong."""
    session = RememberingSession(open_sessions({stage.name: graph}, BACKEND, threads=1)[stage.name])
    parity = _parity(stage, session, batches[:BATCHES])
    return _parity(stage, session, batches) if _good(parity) and len(batches) > BATCHES else parity


def _good(parity: StageParity) -> bool:
    codes = parity.codes
    return parity.verdict != FAIL and (codes is None or codes.agreement >= CODES_WANTED)


def _fault(parity: StageParity) -> str:
    codes = parity.codes
    return parity.reason if codes is None else f"{1 - codes.agreement:.2%} of the codes were others"


def _deciding(model: onnx.ModelProto) -> dict[str, str]:
    """What chooses codes, and everything back to the product that it compares."""
    producer = {output: node for node in model.graph.node for output in node.output}
    found: dict[str, str] = {}
    waiting = [node for node in model.graph.node if node.op_type in DECIDING]
    while waiting:
        node = waiting.pop()
        if node.name in found:
            continue
        found[node.name] = "decides a code"
        for name in node.input:
            before = producer.get(name)
            if before is not None and (before.op_type in BETWEEN or before.op_type in ("MatMul", "Gemm")):
                if node.op_type in ("MatMul", "Gemm"):
                    continue
                waiting.append(before)
    return found


def _overflowing(
    stage: StageSpec, graph: bytes, model: onnx.ModelProto, batches: Sequence[Batch]
) -> dict[str, float]:
    """Nodes that read or give values near half's largest on real prompts: the largest of each. `model` is the
    graph read.
    """
    largest = _largest_values(stage, graph, model, batches)
    found = {}
    for node in model.graph.node:
        value = max((largest.get(name, 0.0) for name in (*node.input, *node.output)), default=0.0)
        if not value * HEADROOM <= LARGEST_HALF:
            found[node.name] = value
    return found


def _largest_values(
    stage: StageSpec, graph: bytes, model: onnx.ModelProto, batches: Sequence[Batch]
) -> dict[str, float]:
    """The largest absolute value of every float tensor on its way through the graph, constants included."""
    shown = typed(without_values(model))
    names = [o.name for n in shown.graph for o in n.outputs if o.name and is_float(o)]
    given = {output.name for output in model.graph.output}
    watched = with_outputs(graph, [name for name in names if name not in given])
    options = SessionOptions(backend=BACKEND, name=f"{stage.name}.onnx", threads=1, trusted=True)
    session = open_session(watched, options)
    largest = {
        tensor.name: float(np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0.0))
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    inputs = [{tensor.name: batch.tensors[tensor.name] for tensor in stage.inputs} for batch in batches]
    for outputs in parallel_map(session.run, inputs):
        for name in names:
            here = float(np.abs(outputs[name]).max(initial=0.0))
            largest[name] = np.inf if np.isnan(here) else max(largest.get(name, 0.0), here)
    return largest


def _parity(stage: StageSpec, session: Session, batches: Sequence[Batch]) -> StageParity:
    return forced_parity(stage, session, batches, budget=BUDGETS["fp16"], backend=BACKEND)


def _scopes(model: onnx.ModelProto) -> list[str]:
    """The modules of the graph, the last first: the nearer to the output, the cheaper to keep."""
    return list(dict.fromkeys(_scope(node.name) for node in reversed(model.graph.node)))


def _scope(name: str) -> str:
    return name.rpartition("/")[0]
